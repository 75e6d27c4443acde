"""The tree of services: built from settings, listening as one, stopped in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from wsserver.access import mint_token
from wsserver.admission import Admission
from wsserver.aftermath import clean
from wsserver.api import Api
from wsserver.arrivals import Arrivals
from wsserver.channel import HTTPSite
from wsserver.config import Settings, make_settings
from wsserver.desk import Desk
from wsserver.doorkeeper import Doorkeeper
from wsserver.errors import ConfigError, ShuttingDown
from wsserver.events import Events
from wsserver.family import check_host
from wsserver.forwarded import Proxies
from wsserver.inputs import (
    certificate,
    check_directory,
    fixed_host,
    offers_of,
    read_all,
    unsafe,
)
from wsserver.journal import Journal, state_directory
from wsserver.launch import Launcher
from wsserver.offers import Offer
from wsserver.origins import Origins
from wsserver.pages import WEB, status_page
from wsserver.policy import Policy
from wsserver.process import files_in_use, own_names
from wsserver.pulse import Pulse
from wsserver.redirect import ToHTTPS
from wsserver.sessions import Sessions
from wsserver.sharing import Shared
from wsserver.site import Root
from wsserver.sources import Sources, read_files
from wsserver.store import MemoryStore
from wsserver.threads import Worker, in_own_thread
from wsserver.tunnel import TunnelFactory
from wsserver.upgrade import Upgrade

BACKLOG = 1024
#: What is said where nothing tells who may come.
ALONE = "for this machine alone: give --interface, and an identity, to serve others"

_log = Logger(namespace="wsserver")


class Server(MultiService):
    """All of it: sessions over the desk, and the listeners in front.

    ``http_port``, ``ws_port`` and ``redirect_port`` are the ports in use once it has
    started, None where there is none.  ``stop`` is what ``/v1/stop`` calls.
    """

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        offers: Mapping[str, Offer],
        stop: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        check_directory(settings.http_directory)
        self.setName("wsserver")
        self.http_port: int | None = None
        self.ws_port: int | None = None
        self.redirect_port: int | None = None
        self._reactor = reactor
        self._settings = settings
        self._offers = offers
        self._ports: list[IListeningPort] = []
        self._sites: list[HTTPSite] = []
        self._stopping: Deferred[None] = succeed(None)
        #: How many reloads have begun, and which of them has been the last to change anything.
        self._reloads = self._reloaded = 0
        self.desk = Desk(
            offers, MemoryStore(), reactor, mint_token, time.time, settings.timeout, settings
        )
        origins = Origins(settings.allowed_origins)
        hosts = settings.hosts(own_names)
        policy = Policy(settings.frame_ancestors, settings.hsts, settings.headers)
        self.journal = Journal(state_directory(settings.state_directory, os.environ))
        launcher = Launcher(Worker.on(reactor), self.journal)
        self.sessions = Sessions(self.desk, launcher, reactor)
        self.desk.setServiceParent(self)
        Pulse(reactor).setServiceParent(self)
        self.proxies = Proxies(settings.trusted_proxies)
        self.admission = Admission(settings.max_connections_per_address, files_in_use)
        self.sources = Sources(reactor, settings, self.proxies)
        self.sources.setServiceParent(self)
        identity = self.sources.identity(read_files(settings))
        self.doorkeeper = Doorkeeper(self.desk, identity, settings.bind_user)
        self.tunnels = TunnelFactory(
            reactor,
            self.sessions.join,
            fixed_host(settings),
            policy.headers,
            settings.max_message_size,
            settings,
            self.proxies,
            origins,
            self.admission,
            self.doorkeeper,
            hosts,
        )
        self.api = Api(
            self.desk,
            self.doorkeeper,
            stop or self.stopService,
            partial(status_page, policy),
            settings.act_for_users,
            origins,
            self.proxies,
        )
        self.events = Events(self.desk, self.doorkeeper, reactor)
        root = Root(
            Shared(self.api.app.resource(), origins),
            self.events,
            settings.http_directory,
            Upgrade(self.tunnels) if settings.one_port else None,
            policy,
            hosts,
        )
        self.site = HTTPSite(root, policy.headers, reactor, settings, self.proxies, self.admission)
        self._tls = certificate(settings)

    def privilegedStartService(self) -> None:
        """End what servers that died have left, then listen on every port, or on none.

        The former blocks for some seconds, where there is anything.

        Raises:
            CannotListenError: a port is taken or forbidden.
            ConfigError: the state directory is not safe, or the host lacks what is needed.
        """
        super().privilegedStartService()
        check_host()
        self.journal.open()
        try:
            clean(self.journal.directory)
            self._listen()
        except BaseException:
            while self._ports:
                self._ports.pop().stopListening()
            self.journal.close()
            raise

    def startService(self) -> None:
        """Serve, and say in one line what is served where."""
        if not self._ports:
            self.privilegedStartService()
        super().startService()
        self.tunnels.closed = False
        self.sessions.startService()
        _log.info("{line}", line=self._banner())
        if self.http_port is not None and not (WEB / "novnc").exists():
            _log.warn("the viewer page lacks noVNC, which `make setup` brings in")
        self._warn()

    def reload(self) -> Deferred[None]:
        """Read service file, scripts, users, keys and certificate again, for what is new.

        Where anything is wrong, all stays as it is, and the log tells why.  Live sessions
        and reservations keep what they were made with.
        """
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> None:
        self._reloads += 1
        mine = self._reloads
        try:
            read = partial(read_all, self._settings)
            offers, files = await in_own_thread(self._reactor, read)
            if mine < self._reloaded:
                return  # one that has read later was quicker
            if self._tls is not None:
                self._tls.reload()
        except Exception as error:
            problems = error.problems if isinstance(error, ConfigError) else [repr(error)]
            _log.error("not reloaded, all stays as it is: {why}", why="; ".join(problems))
            return
        self._reloaded = mine
        self._offers = self.desk.offers = offers
        self.doorkeeper.identity = self.sources.identity(files)
        self.sources.renew()
        _log.info("reloaded: offers {what}", what=self._offered())
        self._warn()

    def stopService(self) -> Deferred[None]:
        """Stop in order, within ``shutdown_timeout``: listeners, clients, services.

        Each caller is told when all of it is done, whoever has begun it.
        """
        if self.running:
            self._stopping = Deferred.fromCoroutine(self._stop())
        told: Deferred[None] = Deferred()
        self._stopping.addBoth(told.callback)
        return told

    async def _stop(self) -> None:
        _log.info("stopping")
        stopped = [maybeDeferred(super().stopService)]
        stopped += [maybeDeferred(port.stopListening) for port in self._ports]
        self._ports.clear()
        for site in self._sites:
            site.close()
        self._sites.clear()
        self.tunnels.dismiss_all(ShuttingDown())
        stopped += [tunnel.is_closed for tunnel in self.tunnels.tunnels]
        stopped.append(self.sessions.stopService())
        if not await self._in_time(DeferredList(stopped, consumeErrors=True)):
            names = [f"{r.service} {r.index}" for r in self.desk.live()]
            _log.error("not stopped in time: {what}", what=", ".join(names) or "a client")
        for tunnel in list(self.tunnels.tunnels):
            tunnel.transport.abortConnection()
        self.events.close()
        self.journal.close()

    def _in_time(self, work: Deferred[Any]) -> Deferred[bool]:
        """Tell whether work ended within ``shutdown_timeout``; it is not cancelled."""
        told: Deferred[bool] = Deferred()
        timer = self._reactor.callLater(self._settings.shutdown_timeout, told.callback, False)

        def ended(_: object) -> None:
            if timer.active():
                timer.cancel()
                told.callback(True)

        work.addBoth(ended)
        return told

    def _listen(self) -> None:
        settings = self._settings
        if settings.http_port != -1:
            self.http_port = self._listen_on(settings.http_port, self._open(self.site))
        if settings.ws_port not in (None, -1) and not settings.one_port:
            assert settings.ws_port is not None
            self.ws_port = self._listen_on(settings.ws_port, self.tunnels)
        self.api.websocket_port = self.ws_port
        if settings.https_redirect_port is not None and self.http_port is not None:
            away = HTTPSite(
                ToHTTPS(self.http_port),
                reactor=self._reactor,
                deadlines=settings,
                proxies=self.proxies,
                admission=self.admission,
            )
            port = settings.https_redirect_port
            self.redirect_port = self._listen_on(port, self._open(away), secure=False)

    def _open(self, site: HTTPSite) -> HTTPSite:
        site.closed = False
        self._sites.append(site)
        return site

    def _listen_on(self, number: int, factory: IProtocolFactory, secure: bool = True) -> int:
        outcome: list[Any] = []
        # A listener on this machine is there, or is not, at once.
        if secure and self._tls is not None:
            factory = TLSMemoryBIOFactory(self._tls, False, factory, self._reactor)
        self._endpoint(number).listen(self._arrivals(factory)).addBoth(outcome.append)
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        self._ports.append(outcome[0])
        port: int = outcome[0].getHost().port
        return port

    def _arrivals(self, factory: IProtocolFactory) -> Arrivals:
        """Return what a listener has in front of its door, and below TLS."""
        settings = self._settings
        return Arrivals(
            factory,
            self._reactor,
            self.admission,
            self.proxies,
            settings.proxy_protocol,
            settings.head_timeout,
        )

    def _endpoint(self, number: int) -> IStreamServerEndpoint:
        interface = self._settings.address
        family = TCP6ServerEndpoint if ":" in interface else TCP4ServerEndpoint
        return family(self._reactor, number, BACKLOG, interface)

    def _banner(self) -> str:
        secure = "s" if self._tls is not None else ""
        local = self._settings.interface is None and not self._settings.guarded
        host = "localhost" if local else self._settings.address or "0.0.0.0"  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        parts = []
        if self.http_port is not None:
            served = "files, " if self._settings.http_directory else "pages, "
            sockets = " and websockets" if self._settings.one_port else ""
            parts.append(f"http{secure}://{host}:{self.http_port}/ ({served}REST{sockets})")
        if self.ws_port is not None:
            parts.append(f"ws{secure}://{host}:{self.ws_port}/")
        if self.redirect_port is not None:
            parts.append(f"http://{host}:{self.redirect_port}/ (leads to https)")
        line = f"wsserver listens on {' and '.join(parts)}; offers {self._offered()}"
        return f"{line}; {ALONE}" if local else line

    def _offered(self) -> str:
        names = [f"{name} x{offer.spec.count}" for name, offer in self._offers.items()]
        basic = fixed_host(self._settings)
        if basic is not None:
            names.append(f"a tunnel to {basic[0]}:{basic[1]} without token")
        return ", ".join(names) or "nothing"

    def _warn(self) -> None:
        for name, offer in self._offers.items():
            if offer.unavailable is not None:
                _log.warn("{name} is unavailable: {why}", name=name, why=offer.unavailable)
        for line in unsafe(self._settings, self._offers):
            _log.warn("{what}", what=line)


def make_service(reactor: Any, stop: Callable[[], object] | None = None, **given: Any) -> Server:
    """Return the server as a service, to embed it in a reactor of your own.

    Settings have the names of the command line; the reactor is not patched, so its
    timers follow whatever clock it has.  ``stop`` is called on ``/v1/stop``; by default
    this service alone stops.

    Raises:
        ConfigError: with everything that is wrong with settings, service file or scripts.
    """
    settings = make_settings(given)
    return Server(reactor, settings, offers_of(settings), stop)
