"""The order in the house: floors, homes of third-party packages, and what starting up may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import schemaflow

PACKAGE = Path(schemaflow.__file__).parent

FLOORS = (
    {"errors"},
    {"counts", "interests", "registry"},
    {"schema", "logits", "metrics", "ranking", "ridge"},
    {"data", "datasets", "layers", "losses", "sampling", "optimizers", "index"},
    {"features"},
    {"arguments", "inputs", "items", "negatives", "tasks", "towers"},
    {"evaluation", "export", "model_config", "state", "steps", "vectors"},
    {"growth", "truncation"},
    {"models", "bulk"},
    {"config"},
    {"workflows", "serving"},
    {"cli"},
)

HOMES = {
    "yaml": {"schema.yaml_text"},
    "pydantic": {"schema", "config", "serving"},
    "pydantic_core": {"schema.document"},
    "pyarrow": {"schema", "data", "datasets", "evaluation", "export", "bulk", "workflows", "serving"},
    "keras": {
        "arguments", "features", "layers", "losses", "sampling", "optimizers", "index", "inputs", "negatives", "towers", "tasks", "models",
        "export",
        "growth", "model_config", "state", "truncation",
        "workflows", "cli",
    },
    "tensorflow": {
        "interests", "logits", "ranking", "data", "features", "layers", "losses", "sampling", "optimizers", "index", "inputs",
        "items", "negatives", "towers",
        "tasks",
        "evaluation", "export", "models", "steps", "vectors", "cli", "serving",
    },
    "numpy": {
        "bulk", "metrics", "schema", "data", "datasets", "features", "layers", "sampling", "index", "evaluation", "export", "growth",
        "negatives", "ridge", "state", "tasks", "vectors", "workflows", "serving",
    },
    "merlin": {"schema.merlin"},
    "faiss": {"index.faiss"},
    "scann": {"index.scann"},
    "typer": {"cli.app"},
    "rich": {"cli"},
    "fastapi": {"serving"},
    "starlette": {"serving.app"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
}  # fmt: skip

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if module.partition(".")[0] in floor)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each imported module and whether a function imports it; TYPE_CHECKING blocks count as neither."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(child) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for child in ast.walk(node)}
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or "", id(node) in inside


def test_every_module_stands_on_a_floor() -> None:
    assert {name.partition(".")[0] for name in MODULES} - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_imports_fall_like_water(module: str) -> None:
    package = module.partition(".")[0]
    for imported, in_function in imports(MODULES[module]):
        top, _, rest = imported.partition(".")
        if top == "schemaflow":
            target = rest.partition(".")[0]
            assert target == package or floor_of(target) < floor_of(package), f"{module} imports {imported}"
            assert not in_function or package == "cli", f"{module} imports {imported} inside a function"
        elif top not in sys.stdlib_module_names:
            homes = HOMES.get(top, set())
            assert package in homes or module in homes, f"{module} is no home of {top}"
            assert ".python" not in imported, f"{module} imports {imported}"
            assert ".src" not in imported, f"{module} imports {imported}"


@pytest.mark.parametrize(
    "start",
    [
        "import schemaflow",
        "import schemaflow; schemaflow.Schema.from_yaml('schemas/movielens_100k.yaml')",
        "import schemaflow; schemaflow.RunConfig.from_yaml('examples/movielens.run.yaml')",
        "import sys; sys.argv = ['schemaflow', '--help']; import runpy; from schemaflow.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['schemaflow', 'validate', 'schemas/movielens_100k.yaml']\n"
        "from schemaflow.cli.app import main\ntry: main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['schemaflow', 'diff', *2 * ['schemas/movielens_100k.yaml']]\n"
        "from schemaflow.cli.app import main\ntry: main()\nexcept SystemExit: pass",
    ],
)
def test_starting_up_loads_nothing_heavy(start: str) -> None:
    heavy = ["tensorflow", "keras", "pyarrow", "merlin", "numpy", "rich"] + (["pydantic"] if "--help" in start else [])
    check = f"\nimport sys; print([it for it in {heavy} if it in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", start + check], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_infer_loads_no_tensorflow(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user_id": [1, 2, 1], "item_id": [1, 1, 2]}), tmp_path / "interactions.parquet")
    start = f"import sys; sys.argv = ['schemaflow', 'infer', {str(tmp_path)!r}]; from schemaflow.cli.app import main\n"
    check = "\nprint([it for it in ('tensorflow', 'keras', 'merlin') if it in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{start}try: main()\nexcept SystemExit: pass{check}"],
        capture_output=True, text=True, check=True, cwd=PACKAGE.parent,
    )  # fmt: skip
    assert "item_id: {dtype: int64, tags: [item, id]" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_nothing_is_traced_by_autograph() -> None:
    """Python 3.11 cannot parse in two threads at once, and a reader that ends lets TensorFlow print a traceback."""
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        traced = [it for it in nodes if isinstance(it, ast.Attribute) and ast.unparse(it) == "tf.function"]
        plain = [
            call
            for call in nodes
            if isinstance(call, ast.Call)
            and any(ast.unparse(it) == "tf.function" for it in [call.func, *call.args])
            and any(ast.unparse(it) == "autograph=False" for it in call.keywords)
        ]
        assert len(traced) == len(plain), path


def test_public_names_are_sorted_and_there() -> None:
    assert schemaflow.__all__ == sorted(schemaflow.__all__)
    for name in schemaflow.__all__:
        assert getattr(schemaflow, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'TowTowerModel'"):
        _ = schemaflow.TowTowerModel
