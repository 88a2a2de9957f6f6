"""`fedge-agent doctor`: whether the way to the broker is known and allowed, and the proxy's credentials can be used."""

from pathlib import Path

from fedge_agent.config import Config
from fedge_agent.identity import record
from fedge_agent.identity.errors import IdentityError
from fedge_agent.kernel.doctor import Check, Grade
from fedge_agent.kernel.endpoints import addresses_of, boot_time_s, endpoint_of, read_endpoints
from fedge_agent.network_path import NetworkPath, broker_of
from fedge_transport.errors import ProxyRefusedError
from fedge_transport.route import is_address

_LABEL = "way out"


def check_way_out(config: Config, *, owner_uid: int = 0) -> Check:
    """One check: broker, proxy, and the addresses that the refresher has allowed, where it guards this device."""
    try:
        place = broker_of(config, record.load(config.state_dir))
    except IdentityError:
        return Check(_LABEL, Grade.OK, "no broker before the enrolment")
    proxy = NetworkPath.of_command(config).proxy
    told = str(place)
    host, port = place.host, place.port
    if proxy is not None:
        told += f" through the proxy {proxy.host}:{proxy.port}"
        host, port = proxy.host, proxy.port
        try:
            proxy.credentials()
        except ProxyRefusedError as error:
            return Check(_LABEL, Grade.FAIL, f"{told}: {error}", "one line user:password, chown root:fedge, chmod 640")
    endpoints = read_endpoints(Path(f"{config.runtime_dir}-bpf") / "endpoints", owner_uid=owner_uid)
    if is_address(host):
        return Check(_LABEL, Grade.OK, told)
    if not endpoints:
        return Check(_LABEL, Grade.OK, f"{told}; names are resolved by the system")
    now_s = boot_time_s()
    addresses, found = addresses_of(endpoints, host, port, now_s), endpoint_of(endpoints, host, port)
    if not addresses or found is None:
        cure = "systemctl start fedge-policy; journalctl -u fedge-policy says why not"
        return Check(_LABEL, Grade.FAIL, f"{told}: no address of {host} is allowed at port {port}", cure)
    left_s = (found.fresh_until_s or now_s) - now_s
    age = f"good for {left_s} s more" if left_s > 0 else "to be asked for again at the next connection"
    return Check(_LABEL, Grade.OK, f"{told}; {len(addresses)} addresses of {host}, {age}")
