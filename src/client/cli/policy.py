"""`rbee policy`: the programs that decide which worker serves which job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from client.cli.call import collected, with_queen
from client.cli.simulate import simulate
from client.render import trouble, words
from client.render.table import as_dict, console, print_facts, print_json, print_json_messages, print_table
from wire import errors

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import policy_pb2, policy_service_pb2

_EPILOG: Final = (
    "For example: rbee policy new --from cost-optimizer mine.lua; rbee policy test mine.lua; "
    "rbee policy save mine.lua; rbee policy activate mine; rbee policy rollback."
)

app = typer.Typer(help="Write, try, save and activate policies.", epilog=_EPILOG)
app.command()(simulate)

NameArgument = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A saved policy; see: rbee policy list.")]
FileArgument = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="The policy, Lua or YAML.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_policies(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="All versions of this policy. Default: the newest of each.")] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Lists policies. For example: rbee policy list; rbee policy list mine."""

    async def ask(queen: Client) -> list[policy_pb2.Policy]:
        return await collected(queen.policies.list(name))

    policies = with_queen(ctx, ask)
    if as_json:
        print_json_messages(policies)
        return
    print_table(
        ["name", "version", "active", "language", "saved", "by", "sha256"],
        [
            [
                policy.name,
                policy.version or words.NOTHING,
                _standing(policy),
                words.state(policy, "language"),
                words.clock_time(policy.create_time) if policy.HasField("create_time") else words.NOTHING,
                policy.author or words.NOTHING,
                policy.sha256[:12] or words.NOTHING,
            ]
            for policy in policies
        ],
        f"no policy {name}; save one with: rbee policy save FILE" if name else "no policies",
    )


@app.command()
def show(ctx: typer.Context, name: NameArgument, *, as_json: AsJson = False) -> None:
    """Shows a version of a policy. For example: rbee policy show mine@1.0.2."""

    async def ask(queen: Client) -> policy_pb2.Policy:
        return await queen.policies.get(*_split(name))

    policy = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(policy))
        return
    print_facts(_facts(policy))
    print()
    console().print(policy.source.rstrip("\n"))


@app.command()
def source(
    ctx: typer.Context,
    name: NameArgument = "platform",
    *,
    lua: Annotated[bool, typer.Option("--lua", help="The Lua it runs as, where it was written in YAML.")] = False,
) -> None:
    """Prints the text of a policy, of the built-in one unless told. For example: rbee policy source > mine.lua."""

    async def ask(queen: Client) -> str:
        if name == "platform":
            return await queen.policies.platform_source()
        policy = await queen.policies.get(*_split(name))
        return policy.compiled_lua if lua else policy.source

    typer.echo(with_queen(ctx, ask), nl=False)


@app.command()
def validate(ctx: typer.Context, file: FileArgument, *, as_json: AsJson = False) -> None:
    """Tells everything that is wrong with a policy; exit code 1 when there is something.

    It checks syntax and names and tries the policy on random clusters. For example: rbee policy validate mine.lua.
    """
    text = _read(file)

    async def ask(queen: Client) -> policy_service_pb2.PolicyServiceValidateResponse:
        with console(to_stderr=True).status(f"trying {file.name} on random clusters"):
            return await queen.policies.validate(text, file.name)

    found = with_queen(ctx, ask)
    if as_json:
        print_json(as_dict(found))
    else:
        typer.echo("\n".join(problem_lines(found.problems, file)) or f"{file} is valid")
    raise typer.Exit(0 if found.valid else trouble.FAILED)


@app.command("test")
def run_cases(
    ctx: typer.Context,
    file: FileArgument,
    *,
    cases: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="The cases. Default: NAME.cases.yaml beside the policy."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Runs the cases beside a policy; exit code 1 when one fails. For example: rbee policy test mine.lua."""
    text, cases_file = _read(file), cases or file.with_suffix(".cases.yaml")
    if not cases_file.exists():
        raise errors.NotFound(f"there are no cases {cases_file}; write some, or name them with --cases", "NO_CASES")
    cases_text = _read(cases_file)

    async def ask(queen: Client) -> list[policy_pb2.PolicyCaseResult]:
        with console(to_stderr=True).status(f"running {cases_file.name}"):
            return await queen.policies.test(text, file.name, cases_text, str(cases_file))

    results = with_queen(ctx, ask)
    if as_json:
        print_json_messages(results)
    else:
        for result in results:
            if result.passed:
                typer.echo(f"passed  {result.name}")
            else:
                typer.echo(f"FAILED  {result.name}\n        {cases_file}:{result.line}")
                typer.echo(f"        expected: {result.expected}\n        got:      {result.got}")
        passed = sum(result.passed for result in results)
        typer.echo(f"{passed} of {words.plural(len(results), 'case')} passed")
    raise typer.Exit(0 if all(result.passed for result in results) else trouble.FAILED)


@app.command()
def save(
    ctx: typer.Context,
    file: FileArgument,
    *,
    name: Annotated[str, typer.Option(help="Its name. Default: the file's.")] = "",
    version: Annotated[str, typer.Option(help="Its version, such as 1.2.0. Default: the next patch version.")] = "",
    as_json: AsJson = False,
) -> None:
    """Validates a policy and stores it as a version. For example: rbee policy save mine.lua --version 2.0.0."""
    text = _read(file)

    async def ask(queen: Client) -> policy_pb2.Policy:
        with console(to_stderr=True).status(f"trying {file.name} on random clusters"):
            return await queen.policies.save(name or name_of(file), text, version=version, file_name=file.name)

    _tell(with_queen(ctx, ask), "is saved", as_json)


@app.command()
def activate(ctx: typer.Context, name: NameArgument, *, as_json: AsJson = False) -> None:
    """Lets a policy decide from now on. For example: rbee policy activate mine@1.0.2; rbee policy activate platform."""

    async def ask(queen: Client) -> policy_pb2.Policy:
        return await queen.policies.activate(*_split(name))

    _tell(with_queen(ctx, ask), "decides from now on", as_json)


@app.command()
def rollback(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Lets the policy decide that was active before. For example: rbee policy rollback."""

    async def ask(queen: Client) -> policy_pb2.Policy:
        return await queen.policies.rollback()

    _tell(with_queen(ctx, ask), "decides again", as_json)


@app.command()
def templates(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Lists commented starts for a policy of one's own. For example: rbee policy templates."""
    found = with_queen(ctx, _templates)
    if as_json:
        print_json_messages(found)
        return
    rows = [[one.name, words.state(one, "language"), one.summary] for one in found]
    print_table(["name", "language", "what it does"], rows, "no templates")


@app.command()
def new(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What is written, such as mine.lua.")],
    *,
    template: Annotated[str, typer.Option("--from", help="The template; see: rbee policy templates.")],
) -> None:
    """Writes a commented start and its cases. For example: rbee policy new --from cost-optimizer mine.lua."""
    found = {one.name: one for one in with_queen(ctx, _templates)}
    if template not in found:
        raise errors.NotFound(f"there is no template {template}; see: rbee policy templates", "TEMPLATE_NOT_FOUND")
    chosen, cases = found[template], file.with_suffix(".cases.yaml")
    language = words.state(chosen, "language")
    if file.suffix.replace(".yml", ".yaml") != f".{language}":
        called = file.with_suffix(f".{language}")
        raise errors.Invalid(f"{template} is written in {language}: call the file {called}", "WRONG_SUFFIX")
    for path, text in ((file, chosen.source), (cases, chosen.cases_yaml)):
        try:
            with path.open("x", encoding="utf-8") as written:
                written.write(text)
        except FileExistsError:
            raise errors.AlreadyExists(f"{path} is there already; choose another name", "FILE_EXISTS") from None
        except OSError as error:
            raise errors.WrongState(f"{path} cannot be written: {error.strerror}", "NOT_WRITABLE") from error
    typer.echo(f"{file} and {cases} are written; try them with: rbee policy test {file}")


async def _templates(queen: Client) -> list[policy_pb2.PolicyTemplate]:
    return await collected(queen.policies.templates())


def problem_lines(problems: Iterable[policy_pb2.PolicyProblem], file: Path) -> Iterator[str]:
    """Yields each problem as file:line:column, with the line it is in and a mark below the column."""
    for problem in problems:
        place = ":".join([str(file), *(str(number) for number in (problem.line, problem.column) if number)])
        yield f"{place}: {'' if problem.fatal else 'warning: '}{problem.message}"
        if problem.source_line:
            yield f"    {problem.source_line.rstrip()}"
        if problem.source_line and problem.column:
            # Tabs stay tabs, so that the mark stands below what it means.
            before = re.sub("[^\t]", " ", problem.source_line[: problem.column - 1])
            yield f"    {before}^"


def name_of(file: Path) -> str:
    """Returns the name of the policy in a file: the file's, in lower-case letters, digits and -."""
    return re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.Invalid(f"{file} cannot be read: {error}", "NOT_READABLE") from error


def _split(name: str) -> tuple[str, str]:
    """Returns name and version of NAME[@VERSION]."""
    first, _, version = name.partition("@")
    return first, version


def _standing(policy: policy_pb2.Policy) -> str:
    if policy.suspension:
        return "suspended"
    return "active" if policy.active else words.NOTHING


def _facts(policy: policy_pb2.Policy) -> Iterator[tuple[str, str]]:
    yield "policy", policy.name
    yield "version", policy.version
    yield "standing", _standing(policy)
    yield "suspended because", policy.suspension
    yield "language", words.state(policy, "language")
    yield "saved", words.clock_time(policy.create_time) if policy.HasField("create_time") else ""
    yield "by", policy.author
    yield "sha256", policy.sha256


def _tell(policy: policy_pb2.Policy, what: str, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(policy))
    else:
        typer.echo(f"policy {policy.name} {policy.version}".rstrip() + f" {what}")
