"""Tells twistd of ``twistd wsserver``."""

from twisted.application.service import ServiceMaker

wsserver = ServiceMaker(
    "wsserver",
    "wsserver.tap",
    "Reserve, launch and tunnel services to web browsers.",
    "wsserver",
)
