"""The server beside its peers: what a gateway costs (see README.md in this folder)."""
