from pathlib import Path

import pytest

from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused
from edgeloop.toolchain.grounds import read_recipe
from edgeloop.toolchain.train import RetrainRecipe, TrainRecipe


@pytest.fixture
def lent(tmp_path: Path) -> Path:
    folder = tmp_path / "lent"
    (folder / "cats").mkdir(parents=True)
    (tmp_path / "lent-too").mkdir()
    (tmp_path / "secret.csv").write_text("a,label\n1,x\n")
    (folder / "link").symlink_to(tmp_path)
    return folder


@pytest.mark.parametrize("kind", [TrainRecipe, RetrainRecipe])
def test_what_edgeloop_brings_along_needs_no_folder(kind: type) -> None:
    assert read_recipe({"seed": 3}, kind, data=None).source == "bundled"
    assert read_recipe({"source": "keras"}, kind, data=None).source == "keras"


@pytest.mark.parametrize("field", ["data", "source"])
@pytest.mark.parametrize("named", ["/etc", ".", "cats", "~", ""])
def test_worker_that_lends_nothing_reads_no_path(field: str, named: str) -> None:
    with pytest.raises(Refused, match="--data"):
        read_recipe({field: named}, TrainRecipe, data=None)


@pytest.mark.parametrize("field", ["data", "source"])
@pytest.mark.parametrize("named", ["cats", "./cats", "not-there", ".", "cats/../cats", "a b", "-rf", "é", "x.csv"])
def test_path_in_the_folder_is_read_there(lent: Path, field: str, named: str) -> None:
    found = getattr(read_recipe({field: named}, TrainRecipe, data=lent), field)
    assert Path(found).is_absolute()
    assert Path(found).is_relative_to(lent)


def test_label_column_stays_with_its_table(lent: Path) -> None:
    assert read_recipe({"data": "t.csv:kind"}, TrainRecipe, data=lent).data == f"{lent}/t.csv:kind"


def test_folder_itself_may_be_named_in_full(lent: Path) -> None:
    assert read_recipe({"source": f"{lent}/cats"}, TrainRecipe, data=lent).source == f"{lent}/cats"


@pytest.mark.parametrize("field", ["data", "source"])
@pytest.mark.parametrize(
    "named",
    ["..", "../lent-too", "../secret.csv", "../secret.csv:label", "/etc/passwd", "cats/../../secret.csv", "link",
     "link/secret.csv", "link/../..", "a\0b", "x" * 5000, "/" * 300 + "etc", "../lent-too\0", "//etc",
     "/proc/self/environ"],
    ids=lambda named: repr(named[:24]),
)  # fmt: skip
def test_path_that_leads_out_of_the_folder_is_turned_down(lent: Path, field: str, named: str) -> None:
    with pytest.raises(EdgeloopError):
        read_recipe({field: named}, TrainRecipe, data=lent)


@pytest.mark.parametrize("recipe", [{"seed": "x"}, {"data": 5}, {"source": True}, {"net": "../x"}, {"seed": 0.5}])
def test_recipe_of_another_shape_is_invalid_input(recipe: dict[str, str | int | float | bool]) -> None:
    with pytest.raises(InvalidInput, match="recipe"):
        read_recipe(recipe, TrainRecipe, data=None)
