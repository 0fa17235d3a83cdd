from pathlib import Path

import pytest
import torch
from torch import nn

from gatedvision.engine.checkpoint_file import (
    CheckpointError,
    find_last_checkpoint,
    list_checkpoints,
    load_weights,
    locate_checkpoint,
    read_checkpoint,
    remove_unfinished,
    select_weights,
    write_atomically,
)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        write_atomically({"state_dict": {}}, folder / name)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "epoch_1.pth"
    write_atomically({"state_dict": {"a": torch.ones(1)}}, path)

    def fail_halfway(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail_halfway)
    with pytest.raises(OSError, match="disk full"):
        write_atomically({"state_dict": {}}, path)
    assert read_checkpoint(path)["state_dict"]["a"] == 1
    # Half a file would keep the place that a full disk lacks. Only a process that is killed leaves one.
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / ".epoch_1.pth.unfinished").write_bytes(b"half")
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_last_checkpoint_comes_first_and_later_ones_of_an_earlier_run_not_at_all(tmp_path):
    touch(tmp_path, "epoch_1.pth", "epoch_2.pth", "epoch_10.pth", "epoch_90.pth", "iter_5.pth", "best_x_epoch_3.pth")
    write_atomically("epoch_10.pth\n", tmp_path / "last_checkpoint")
    assert names(list_checkpoints(tmp_path)) == ["epoch_10.pth", "epoch_2.pth", "epoch_1.pth"]


def test_last_checkpoint_of_another_folder_is_looked_up_by_its_name(tmp_path):
    touch(tmp_path, "epoch_1.pth", "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text("/somewhere/else/epoch_2.pth")
    assert find_last_checkpoint(tmp_path) == tmp_path / "epoch_2.pth"


def test_without_a_pointer_the_newest_file_comes_first(tmp_path):
    touch(tmp_path, "epoch_7.pth", "iter_5.pth")
    assert names(list_checkpoints(tmp_path)) == ["iter_5.pth", "epoch_7.pth"]
    assert find_last_checkpoint(tmp_path / "nothing") is None


def test_a_file_is_itself_and_a_folder_its_last_checkpoint(tmp_path):
    touch(tmp_path, "epoch_1.pth", "epoch_2.pth")
    assert locate_checkpoint(tmp_path) == tmp_path / "epoch_2.pth"
    assert locate_checkpoint(tmp_path / "epoch_1.pth") == tmp_path / "epoch_1.pth"
    assert locate_checkpoint(tmp_path / "none.pth") == tmp_path / "none.pth"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=f"no checkpoint in {empty}"):
        locate_checkpoint(empty)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*none\.pth"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*text\.pth"):
        read_checkpoint(tmp_path / "text.pth")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        read_checkpoint(tmp_path / "other.pth")


class Evil:
    def __reduce__(self):
        return (print, ("run by unpickling",))


def test_code_in_a_checkpoint_does_not_run(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        read_checkpoint(tmp_path / "evil.pth")
    assert "run by unpickling" not in capsys.readouterr().out


def test_select_weights():
    average, raw = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    saved = {"state_dict": average, "ema_state_dict": {"module.a": raw["a"], "steps": torch.tensor(3)}}
    assert select_weights(saved, "ema") == (average, "ema")
    assert select_weights(saved, "raw") == (raw, "raw")
    assert select_weights({"state_dict": raw}, "ema") == (raw, "raw")


class Task(nn.Module):
    def __init__(self, num_classes: int, width: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Linear(2, width)
        self.head = nn.Linear(width, num_classes)


def test_weights_that_fit_are_loaded():
    source, target = Task(10), Task(10)
    load_weights(target, source.state_dict(), "x.pth")
    assert torch.equal(source.head.weight, target.head.weight)


@pytest.mark.parametrize(
    ("state_dict", "message"),
    [
        (Task(100).state_dict(), r"^x.pth was trained on 100 classes, the config has 10$"),
        (Task(10, width=4).state_dict(), r"stem.weight is \(4, 2\) there and \(3, 2\) here \(and 2 more\)"),
        ({**Task(10).state_dict(), "extra": torch.ones(1)}, "extra is unknown to the model"),
        ({"stem.weight": torch.ones(3, 2)}, r"stem.bias is missing \(and 2 more\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(state_dict, message):
    with pytest.raises(CheckpointError, match=message):
        load_weights(Task(10), state_dict, "x.pth")
