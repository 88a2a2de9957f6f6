import subprocess
import sys

import pytest

from fedge_protocol.secagg import labels
from fedge_protocol.secagg.errors import BadInput
from fedge_protocol.secagg.kdf import derive, digest
from fedge_protocol.secagg.params import Suite
from fedge_protocol.secagg.prekeys import Prekey, generate
from fedge_protocol.secagg.prg import CHUNK_BYTES, Keystream
from fedge_protocol.secagg.x25519 import Agreement, LowOrderError, is_usable, public_of

LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def test_labels_are_distinct_and_fit_the_personalisation_field():
    values = [value for name, value in vars(labels).items() if name.isupper()]
    assert len(set(values)) == len(values) >= 11
    assert all(0 < len(value) <= 16 for value in values)


def test_parts_cannot_be_shifted_into_each_other_and_labels_separate():
    results = {
        derive(b"k", b"a", b"xy", b"z"),
        derive(b"k", b"a", b"x", b"yz"),
        derive(b"k", b"a", b"xyz"),
        derive(b"k", b"b", b"xyz"),
        derive(b"l", b"a", b"xyz"),
        derive(b"k", b"a", b"xyz", b""),
        digest(b"a", b"xyz"),
    }
    assert len(results) == 7


def test_x25519_is_that_of_rfc_7748_section_6_1():
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_of(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    agreed = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert Agreement(alice).with_peer(public_of(bob)).hex() == agreed
    assert Agreement(bob).with_peer(public_of(alice)).hex() == agreed


@pytest.mark.parametrize("public", LOW_ORDER)
def test_a_public_key_of_low_order_gives_no_secret(public):
    with pytest.raises(LowOrderError):
        Agreement(b"k" * 32).with_peer(public)
    assert not is_usable(public)


def test_only_32_bytes_that_are_no_point_of_low_order_are_a_usable_public_key():
    assert is_usable(public_of(b"k" * 32))
    assert not is_usable(public_of(b"k" * 32)[:31])
    assert not is_usable(b"")


def test_the_chacha20_stream_is_that_of_rfc_8439_appendix_a_1():
    expected = (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert Keystream(Suite.CHACHA20, bytes(32)).read(64).hex() == expected


def test_the_aes_stream_is_that_of_sp_800_38a_f_5_1():
    seed = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3cf0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    expected = "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"
    assert Keystream(Suite.AES128_CTR, seed).read(32).hex() == expected


@pytest.mark.parametrize("suite", list(Suite))
def test_filling_buffers_and_reading_give_the_same_stream(suite):
    out = bytearray(CHUNK_BYTES + 10)
    stream = Keystream(suite, b"s" * 32)
    stream.fill(memoryview(out)[:CHUNK_BYTES])
    stream.fill(memoryview(out)[CHUNK_BYTES:])
    assert bytes(out) == Keystream(suite, b"s" * 32).read(CHUNK_BYTES + 10)


def test_a_seed_of_another_size_makes_no_keystream():
    with pytest.raises(BadInput, match="31 bytes"):
        Keystream(Suite.CHACHA20, b"s" * 31)


def test_prekeys_are_distinct_numbered_and_do_not_show_their_secrets():
    keys = generate(7, 5)
    assert [key.prekey_id for key in keys] == [7, 8, 9, 10, 11]
    assert len({key.mask_public for key in keys} | {key.channel_public for key in keys}) == 10
    assert keys[0].mask_public != keys[0].channel_public
    shown = repr(keys[0])
    assert keys[0].mask_seed.hex() not in shown
    assert repr(keys[0].mask_seed) not in shown
    assert repr(keys[0].channel_private) not in shown


@pytest.mark.parametrize(("number", "seed", "channel"), [(-1, 16, 32), (0, 15, 32), (0, 16, 31)])
def test_a_prekey_of_the_wrong_size_is_refused(number, seed, channel):
    with pytest.raises(BadInput, match="prekey"):
        Prekey(number, bytes(seed), bytes(channel))


def test_what_the_daemon_imports_does_not_import_numpy():
    modules = ["params", "buckets", "prekeys", "shamir", "member", "prg", "roster", "seeds", "x25519", "recovery"]
    code = "".join(f"import fedge_protocol.secagg.{module}\n" for module in modules)
    code += "import sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
