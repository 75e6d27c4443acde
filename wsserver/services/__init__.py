"""The service scripts shipped with the package; they use its public names alone."""
