"""Files that are there whole or not at all."""

import pytest

from trl_dapo.host.whole_files import write_whole


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_written_in_place_of_another_and_its_folder_is_made(tmp_path, sync):
    path = tmp_path / "new" / "file.txt"
    for text in ("first, and long", "é"):
        write_whole(path, text, sync)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_if_the_new_text_cannot_be_written(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
