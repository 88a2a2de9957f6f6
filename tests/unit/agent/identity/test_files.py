import os

import pytest

from fedge_agent.identity.errors import KeyFileError
from fedge_agent.identity.files import MAX_FILE_BYTES, read_private


@pytest.fixture
def elsewhere(tmp_path):
    path = tmp_path / "elsewhere"
    path.write_bytes(b"a secret of somebody else")
    path.chmod(0o600)
    return path


def test_a_pipe_in_place_of_a_file_holds_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "identity.json", 0o600)
    with pytest.raises(KeyFileError, match="no regular file"):
        read_private(tmp_path / "identity.json")


def test_a_link_leads_nobody_away(tmp_path, elsewhere):
    (tmp_path / "identity.json").symlink_to(elsewhere)
    with pytest.raises(KeyFileError, match="no link"):
        read_private(tmp_path / "identity.json")


def test_a_directory_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(KeyFileError, match="only a regular file"):
        read_private(tmp_path)


def test_a_file_without_end_is_not_read_to_its_end(elsewhere):
    elsewhere.write_bytes(bytes(MAX_FILE_BYTES + 1))
    with pytest.raises(KeyFileError, match="more than"):
        read_private(elsewhere)


def test_a_private_file_is_read(elsewhere):
    assert read_private(elsewhere) == b"a secret of somebody else"
