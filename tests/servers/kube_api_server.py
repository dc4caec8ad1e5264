"""A real etcd and kube-apiserver for the tests: loopback, TLS, tokens, RBAC; no controllers.

Nothing but the API server looks at what is written: no pod ever starts, no Deployment becomes
ready, nothing is garbage collected, unless a test does it.
"""

import contextlib
import http.client
import ssl
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers.kube_servers import ETCD, KUBE_APISERVER, go_binary
from tests.servers.leashed_process import LeashedProcess
from tests.servers.ports import LOOPBACK, free_ports

ADMIN = "the-tests-own-admin"  # a token that is worth nothing beyond this run's loopback server
_START_S = 180.0  # 3 s on an idle machine
_CALL_S = 10.0


class KubeApiServer:
    """Start and stop one API server over its own etcd.

    Attributes:
        address: Its ``https`` address.
        authority: File with the certificate that it shows.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._etcd: LeashedProcess | None = None
        self._server: LeashedProcess | None = None
        self.port, self._etcd_port, self._peer_port = free_ports(3)
        self.address = f"https://{LOOPBACK}:{self.port}"
        self.authority = folder / "certificates" / "apiserver.crt"

    def start(self) -> None:
        """Start both and wait until the API is ready.

        Raises:
            MissingToolError: Go is missing, and the programs have not been built yet.
            ServerError: One of them did not come up.
        """
        etcd, server = go_binary(ETCD), go_binary(KUBE_APISERVER)
        self._folder.mkdir(parents=True, exist_ok=True)
        key = self._folder / "service-accounts.pem"
        key.write_bytes(_rsa_key())
        tokens = self._folder / "tokens.csv"
        tokens.write_text(f'{ADMIN},admin,1,"system:masters"\n')
        client, peer = (f"http://{LOOPBACK}:{p}" for p in (self._etcd_port, self._peer_port))
        try:
            self._etcd = LeashedProcess(
                [
                    *[str(etcd), "--name", "only", "--data-dir", str(self._folder / "etcd")],
                    *["--listen-client-urls", client, "--advertise-client-urls", client],
                    *["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
                    *["--initial-cluster", f"only={peer}", "--unsafe-no-fsync"],
                ],
                log=self._folder / "etcd.log",
            )
            self._server = LeashedProcess(
                [
                    *[str(server), f"--etcd-servers={client}"],
                    *[f"--bind-address={LOOPBACK}", f"--advertise-address={LOOPBACK}"],
                    *[f"--secure-port={self.port}", f"--cert-dir={self.authority.parent}"],
                    *[f"--token-auth-file={tokens}", "--authorization-mode=RBAC"],
                    # There is no controller that would make each namespace's default account.
                    "--disable-admission-plugins=ServiceAccount",
                    *[
                        "--service-account-issuer=https://tests",
                        f"--service-account-key-file={key}",
                    ],
                    f"--service-account-signing-key-file={key}",
                    "--service-cluster-ip-range=10.0.0.0/24",
                ],
                log=self._folder / "kube-apiserver.log",
            )
            self._server.wait_for(self._ready, what="starting", within_s=_START_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both, the API server first."""
        for process in (self._server, self._etcd):
            if process is not None:
                process.kill()
        self._server = self._etcd = None

    def _ready(self) -> bool:
        if not self.authority.exists():
            return False
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPSConnection(
                LOOPBACK,
                self.port,
                timeout=_CALL_S,
                context=ssl.create_default_context(cafile=str(self.authority)),
            )
            with contextlib.closing(connection):
                connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {ADMIN}"})
                return connection.getresponse().status == 200
        return False


def _rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
