"""The commands of `schemaflow`."""

import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from schemaflow.cli.quiet import load_tensorflow_quietly
from schemaflow.cli.terminal import Terminal
from schemaflow.errors import ConfigError, SchemaError, SchemaFlowError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from schemaflow.schema import Feature

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """The commands, each with the whole of its first sentence where Typer would cut it to fit a line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the section of a help page that lists them."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, (it.help or "").partition("\n\n")[0]) for name, it in commands if it is not None]
            )


app = typer.Typer(
    name="schemaflow",
    cls=_Commands,
    help="Retrieval models from a feature schema.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # loading Rich takes longer than all else that --help does
)
out = Terminal()

SchemaArgument = Annotated[Path, typer.Argument(help="The schema's file.", show_default=False)]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="The folder that holds the data, or the file of the interactions in it; else the folder in"
        " $SCHEMAFLOW_DATA, else the run file's own.",
        show_default=False,
    ),
]
TablesOption = Annotated[
    Path | None,
    typer.Option(
        help="The folder of the side tables that the schema declares; that of the file if not given.",
        show_default=False,
    ),
]


@app.command()
def validate(
    schema: SchemaArgument,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Check the data there too: a folder, or the interactions.", show_default=False),
    ] = None,
    machine: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a schema file, and with --data the tables too: every mistake on one line."""
    from schemaflow.cli import validation

    findings = validation.validate(schema, data)
    if machine:
        typer.echo(validation.as_json(schema, findings))
    else:
        for finding in findings.found:
            typer.echo(str(finding), err=finding.level == "error")
        if summary := validation.as_text(schema, findings):
            typer.echo(summary)
    raise typer.Exit(1 if findings.errors else 0)


@app.command("json-schema")
def json_schema() -> None:
    """Print the grammar of schema files as JSON Schema, by which editors complete and check them."""
    from schemaflow.schema import Schema

    out.print(json.dumps(Schema.json_schema(), indent=1, ensure_ascii=False))


@app.command()
def infer(
    data: Annotated[list[Path], typer.Argument(help="A folder of Parquet files, or such files.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--out", help="Write the schema there; - prints it.")] = Path("-"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Draft a schema from Parquet, with comments that say what was found."""
    from rich.console import Console
    from rich.progress import Progress

    from schemaflow.schema.inference.draft import draft

    printed = str(output) == "-"
    if not printed and output.exists() and not force:
        raise ConfigError(f"{output}: is there already; pass --force to write over it")
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        drafted = draft(*data, progress=lambda done, rows: bar.update(task, completed=done, total=rows))
    if printed:
        out.print(drafted.text, end="")
    else:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(drafted.text, encoding="utf-8")
        except OSError as reason:
            raise ConfigError(f"{output}: cannot be written: {reason.strerror}; name another file") from None
        out.print(f"wrote {output}: its lines are guesses, read them over before you train")
    if drafted.problems:
        raise SchemaError(*drafted.problems)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The schema's file that a model was trained with.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="The schema's file that it is to have.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes and the verdict as JSON.")] = False,
) -> None:
    """Say what a change of schema means for a trained model: compatible, grows (new rows), or breaks (exit code 1)."""
    from schemaflow.schema import Schema

    found = Schema.from_file(old).diff(new)
    typer.echo(json.dumps(found.to_config(), indent=1, ensure_ascii=False) if as_json else str(found))
    if found.verdict == "breaks":
        raise typer.Exit(1)


@app.command()
def describe(
    file: Annotated[Path, typer.Argument(help="A schema's or a run's YAML file.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option("--data", help="Learn vocabularies from all interactions there.", show_default=False)
    ] = None,
) -> None:
    """Show the embedding tables and towers that a schema gives; with --data, learn its vocabularies first."""
    from schemaflow.config import RunConfig
    from schemaflow.features.tables import describe_tables, table_specs
    from schemaflow.schema import Schema
    from schemaflow.schema.sides import sides_of

    config = RunConfig.from_yaml(file)
    schema = config.select(Schema.from_file(config.schema_file))
    if data is not None:
        schema = schema.fit(config.interactions_file(data))
    sides = sides_of(schema)
    inputs = [feature.name for feature in (*sides.query, *sides.item)]
    try:
        specs = table_specs(schema.select_by_name(inputs), config.embedding_options.options())
    except SchemaError as reason:
        raise SchemaError(
            *(
                problem.replace("call schema.fit(…) on the data first", "pass --data to learn it")
                for problem in reason.problems
            )
        ) from None
    out.print(describe_tables(specs.values()))
    out.print(f"\nquery tower: {', '.join(feature.name for feature in sides.query)}")
    out.print(f"item tower:  {', '.join(feature.name for feature in sides.item)}")
    unused = [feature.name for feature in schema if feature.name not in inputs]
    out.print(f"in neither:  {', '.join(unused) or 'none'}")


@app.command()
def train(
    file: Annotated[
        Path, typer.Argument(help="A run's YAML file, or a schema's for a run by default.", show_default=False)
    ],
    data: DataOption = None,
    bundle: Annotated[Path | None, typer.Option("--out", help="Write the bundle there.", show_default=False)] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="In place of the run file's.", show_default=False)] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="In place of the run file's.", show_default=False)
    ] = None,
) -> None:
    """Train, evaluate over the whole catalogue beside popularity, and export."""
    from schemaflow.config import RunConfig

    config = RunConfig.from_yaml(file)
    given = {name: value for name, value in (("epochs", epochs), ("batch_size", batch_size)) if value is not None}
    _train(config.model_copy(update=given), data, bundle)


@app.command()
def recommend(
    bundle: Annotated[Path, typer.Argument(help="An exported bundle.", show_default=False)],
    features: Annotated[
        list[str] | None,
        typer.Argument(help="Raw query features, as name=value; values of a list with commas.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="An item id that must not come back; may be given several times. With --users, the Parquet file of"
            " interactions whose items do not come back for their user.",
            show_default=False,
        ),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option(help="Recommend for every row of this Parquet file, in place of one query.", show_default=False),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="The Parquet file to write, with --users.", show_default=False)
    ] = None,
    tables: TablesOption = None,
) -> None:
    """Recommend items for one query, or with --users and --out for every row of a Parquet file."""
    if users is not None:
        if target is None or features or len(exclude or ()) > 1:
            raise ConfigError(
                "with --users, name the file to write with --out, no name=value, and one --exclude at most"
            )
        _recommend_all(bundle, users, target, k, exclude[0] if exclude else None, tables)
        return
    if target is not None or tables is not None:
        raise ConfigError("--out and --tables go with --users, the Parquet file of what is asked")
    load_tensorflow_quietly()
    from rich.table import Column, Table

    from schemaflow.export import Recommender
    from schemaflow.schema.sides import sides_of

    recommender = Recommender.load(bundle)
    query = {feature.name: feature for feature in recommender.features}
    request: dict[str, Any] = {}
    for argument in features or ():
        name, equals, value = argument.partition("=")
        if name in request:
            raise ConfigError(f'feature "{name}" is given twice; the values of a list go into one, with commas')
        if not equals:
            raise ConfigError(
                f'"{argument}" is no feature; expected name=value, such as {recommender.features[0].name}=42'
            )
        request[name] = [_parse(query[name], value) if name in query else value]
    item_id = sides_of(recommender.schema).item_id
    answer = recommender.recommend(request, k=k, exclude=[_scalar(item_id, value) for value in exclude or ()])
    table = Table("rank", Column(item_id.name, overflow="fold"), "score")
    for rank, (identifier, score) in enumerate(zip(answer.identifiers[0], answer.scores[0], strict=True), start=1):
        table.add_row(str(rank), str(identifier), f"{score:.4f}")
    out.print(table)


@app.command()
def serve(
    bundle: Annotated[
        Path, typer.Argument(help="An exported bundle; a newer one in its place takes over.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="Of the model, in TensorFlow Serving's paths.")] = "model",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8501,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 4_194_304,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of a request.")] = 256,
    max_k: Annotated[int, typer.Option(min=1, help="Items for each row.")] = 1000,
    max_list: Annotated[int, typer.Option(min=1, help="Values of a list in a row.")] = 1000,
    max_exclude: Annotated[int, typer.Option(min=1, help="Ids to exclude, or to allow, for each row.")] = 10_000,
    max_connections: Annotated[int, typer.Option(min=1, help="Open at a time.")] = 1000,
    max_batch: Annotated[int, typer.Option(min=1, help="Rows that are answered in one call.")] = 64,
    max_wait: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a request waits for others while a thread is idle.")
    ] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="Calls at a time.")] = 2,
    poll: Annotated[float, typer.Option(min=0.01, help="Seconds between looks for a newer bundle.")] = 2.0,
) -> None:
    """Serve a bundle over HTTP: TensorFlow Serving's REST form, recommendations by raw values, and a page at /."""
    load_tensorflow_quietly()
    from schemaflow.serving import ServeOptions
    from schemaflow.serving import serve as run

    options = ServeOptions(
        max_body=max_body,
        max_rows=max_rows,
        max_k=max_k,
        max_list=max_list,
        max_exclude=max_exclude,
        max_connections=max_connections,
        max_batch=max_batch,
        max_wait=max_wait,
        threads=threads,
        poll=poll,
    )
    run(bundle, name, host=host, port=port, options=options)


@app.command()
def embed(
    bundle: Annotated[Path, typer.Argument(help="An exported bundle.", show_default=False)],
    table: Annotated[Path, typer.Argument(help="A Parquet file of users (queries) or items.", show_default=False)],
    target: Annotated[Path, typer.Option("--out", help="The Parquet file to write.", show_default=False)],
    side: Annotated[
        str | None,
        typer.Option(help="query or candidate; by default what the file's columns are of.", show_default=False),
    ] = None,
    tables: TablesOption = None,
) -> None:
    """Write the vectors of users (queries) or items to Parquet, such as for a vector store."""
    load_tensorflow_quietly()
    from schemaflow.workflows import embed as run

    with _counting("embedding") as progress:
        rows = run(bundle, table, target, side=side, tables=tables, progress=progress)
    out.print(f"wrote {target}: {rows:,} vectors")


def _recommend_all(bundle: Path, users: Path, target: Path, k: int, exclude: str | None, tables: Path | None) -> None:
    load_tensorflow_quietly()
    from schemaflow.workflows import recommend_all as run

    with _counting("recommending") as progress:
        rows = run(bundle, users, target, k=k, exclude=exclude, tables=tables, progress=progress)
    out.print(f"wrote {target}: recommendations for {rows:,} rows")


@contextmanager
def _counting(what: str) -> "Iterator[Callable[[int, int], None]]":
    """Give a function that shows on the terminal how many rows are done, and of how many."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    terminal = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, rows: bar.update(task, completed=done, total=rows)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the data and the bundle are written.")] = Path(
        "schemaflow-demo"
    ),
    users: Annotated[int, typer.Option(min=2)] = 2000,
    items: Annotated[int, typer.Option(min=20)] = 1000,
    interactions: Annotated[int, typer.Option(min=10)] = 100_000,
    epochs: Annotated[int, typer.Option(min=1)] = 6,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Generate data with a planted structure, train on it, and recommend from a fresh process."""
    load_tensorflow_quietly()
    from schemaflow.config import RunConfig
    from schemaflow.datasets import synthetic

    data = synthetic(folder / "data", users=users, items=items, interactions=interactions, seed=seed)
    out.print(f"wrote {data.folder} (interactions, users, items, schema)")
    config = RunConfig.from_yaml(data.schema).model_copy(update={"epochs": epochs, "seed": seed})
    _train(config, data.folder, folder / "bundle")
    user = {"user_id": "u00042" if users > 42 else "u00001", "age": "31", "country": "JP"}
    from schemaflow.workflows import recommend_in_fresh_process

    out.print(
        f"\nrecommendations for {', '.join(f'{name} {value}' for name, value in user.items())}, from the bundle in a fresh process:"
    )
    out.print(recommend_in_fresh_process(folder / "bundle", user, 5), end="")


def _train(config: Any, data: Path | None, bundle: Path | None) -> None:
    load_tensorflow_quietly()
    from schemaflow.cli.progress import ProgressBar
    from schemaflow.workflows import train as run

    bar = ProgressBar(out.console)
    try:
        result = run(config, data=data, out=bundle, callbacks=[bar], say=out.print)
    finally:
        bar.close()
    _print_report("all candidates", result.report)
    if result.report_unseen is not None:
        _print_report("without the user's training items", result.report_unseen)
    if bundle is not None:
        out.print(f"bundle: {bundle}")


def _print_report(title: str, report: Any) -> None:
    from rich.table import Table

    table = Table("metric", *report.columns, title=title, title_justify="left")
    for row in report.rows():
        table.add_row(*row)
    out.print(table)
    out.print(", ".join(f"{name}: {value}" for name, value in report.protocol.items()))


def _parse(feature: "Feature", value: str) -> Any:
    return [_scalar(feature, part) for part in value.split(",")] if feature.many else _scalar(feature, value)


def _scalar(feature: "Feature", value: str) -> Any:
    if feature.dtype == "string":
        return value
    try:
        return float(value) if feature.dtype.startswith("float") else int(value)
    except ValueError:
        raise ConfigError(f'feature "{feature.name}": expected {feature.dtype}, received "{value}"') from None


def main() -> None:
    """Run a command; a mistake of the user's ends in one line for each, without a traceback, and exit code 1."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # to look for some reads every package's metadata
    try:
        app()
    except BrokenPipeError:  # `schemaflow … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SchemaFlowError as reason:
        for problem in reason.problems:
            print(problem, file=sys.stderr)  # noqa: T201 - the terminal is what this is for
        sys.exit(1)
    finally:
        gc.freeze()  # nor is there any need to look when all of it ends


if __name__ == "__main__":
    main()
