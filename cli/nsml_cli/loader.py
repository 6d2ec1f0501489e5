"""Commands that are imported when they are typed, so that `nsml --help` and every other one start at once."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from nsml.core.errors import BadInput
from nsml_cli.shell import Shell

HELP = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: its module below `nsml_cli.commands`, its function there, one line of help.

    With *group* it is a group of commands; an empty *section* hides it from the list (an alias).
    """

    module: str
    function: str
    help: str
    section: str = ""
    group: type[LazyGroup] | None = None


class LazyGroup(TyperGroup):
    """A group that knows its commands from a table; helpers list them without importing one."""

    table: ClassVar[Mapping[str, Entry]] = {}
    example: ClassVar[str] = ""

    def get_params(self, ctx: Any) -> Any:
        return _quick(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, entry in self.table.items() if entry.section]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = self.table.get(cmd_name)
        if entry is None:
            return None
        if entry.group is None:
            return _command(cmd_name, entry)
        return group(entry.group, cmd_name, example(f"{entry.help}\n\nExample:\n  $ {entry.group.example}"))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.table and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.table, n=1)
            place = ctx.command_path
            hint = f"Did you mean '{place} {near[0]}'? " if near else ""
            raise BadInput(f"'{place} {name}' is no command.", hint=f"{hint}'{place} --help' lists all.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.table.items():
            if entry.section:
                sections.setdefault(entry.section, []).append((name, entry.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)


class QuickCommand(TyperCommand):
    """A command that starts at once."""

    def get_params(self, ctx: Any) -> Any:
        return _quick(super().get_params(ctx))


class RestCommand(QuickCommand):
    """A command whose words after `--` are somebody else's; they are found as `ctx.obj["rest"]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.ensure_object(dict)["rest"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


def group(cls: type[LazyGroup], name: str, help: str) -> Any:
    """The command that stands for a whole group."""
    app = _app()
    app.callback(
        cls=cls, help=help, context_settings=HELP, invoke_without_command=True, no_args_is_help=False
    )(_options_of_all(_list_commands))
    made = get_command(app)
    made.name = name
    return made


def _list_commands(ctx: typer.Context, shell: Shell) -> None:
    if ctx.invoked_subcommand is None:
        shell.show(ctx.get_help())


def _command(name: str, entry: Entry) -> Any:
    module = importlib.import_module(f"nsml_cli.commands.{entry.module}")
    function = getattr(module, entry.function)
    takes_rest = "rest" in inspect.signature(function).parameters
    app = _app()
    app.command(
        name, cls=RestCommand if takes_rest else QuickCommand, help=_help(function), context_settings=HELP
    )(_options_of_all(function))
    return get_command(app)


def _quick(params: Any) -> Any:
    """*params*, converting only what has to be: typer's conversion loads a library that takes longer than
    all the rest of a start."""
    for param in params:
        if not isinstance(param.process_value, partial):
            param.process_value = partial(_process, param, param.process_value)
            if param.param_type_name == "argument":
                param.get_usage_pieces = partial(_usage_of_argument, param)
                param.get_help_record = partial(_help_of_argument, param)
    return params


def _usage_of_argument(param: Any, ctx: Any) -> list[str]:
    return [param.metavar if param.required else f"[{param.metavar}]"]


def _help_of_argument(param: Any, ctx: Any) -> tuple[str, str]:
    """Its name and what it is, without the types of Python."""
    return param.metavar, param.help or ""


def _process(param: Any, convert: Callable[..., Any], ctx: Any, value: Any) -> Any:
    if value is None and not param.required:
        return () if param.multiple or param.nargs == -1 else None
    is_text = getattr(getattr(param, "type_descriptor", None), "annotation", None) is str
    as_it_is = isinstance(value, str) if is_text else value is not None and value is param.default
    if as_it_is and param.callback is None:
        return value
    try:
        return convert(ctx, value)
    except Exception as error:
        if value is None or not hasattr(error, "format_message"):
            raise
        raise _wrong(param, ctx, value) from error


def _wrong(param: Any, ctx: Any, value: Any) -> BadInput:
    """What cannot be converted, said without the library's words for it."""
    kind = "a number" if "float" in str(getattr(param, "type_descriptor", "")) else "a whole number"
    least, most = getattr(param, "min", None), getattr(param, "max", None)
    limits = "".join(
        f" {word} {limit}" for word, limit in (("from", least), ("up to", most)) if limit is not None
    )
    name = param.opts[0] if param.param_type_name == "option" else param.metavar
    return BadInput(
        f"{name} {value} is not {kind}{limits}.",
        hint=f"'{ctx.command_path} --help' shows how it is used.",
    )


def _app() -> typer.Typer:
    return typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def example(text: str) -> str:
    """*text* with its `Example:` kept line by line."""
    return "\n\n".join(f"\b\n{part}" if "\n  " in part else part for part in text.split("\n\n"))


def _help(function: Callable[..., Any]) -> str:
    return example(inspect.cleandoc(function.__doc__ or ""))


# -- options that every command has ------------------------------------------------------------------
GLOBAL: dict[str, Any] = {
    "as_json": Annotated[
        bool, typer.Option("--json", "-j", "--json-return", help="Print one JSON document on stdout.")
    ],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")],
    "no_color": Annotated[bool, typer.Option("--no-color", help="No colours.", hidden=True)],
    "debug": Annotated[bool, typer.Option("--debug", help="Show tracebacks of our own.", hidden=True)],
    "server": Annotated[
        str, typer.Option("--server", help="The platform's address.", metavar="URL", hidden=True)
    ],
}


def _options_of_all(function: Callable[..., Any]) -> Callable[..., Any]:
    """*function*, which takes a `shell`, as one that takes the options of every command instead."""
    wanted = inspect.signature(function, eval_str=True).parameters
    given = [p for name, p in wanted.items() if name not in ("shell", "rest", "ctx")]
    own = {name for name in GLOBAL if name in wanted}

    def run(ctx: typer.Context, **values: Any) -> Any:
        shared = ctx.ensure_object(dict)
        for name in GLOBAL:
            value = values[name] if name in own else values.pop(name)
            shared[name] = value or shared.get(name)
        if "ctx" in wanted:
            values["ctx"] = ctx
        if "rest" in wanted:
            values["rest"] = shared.get("rest", [])
        return function(shell=shell_of(shared), **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("ctx", keyword, annotation=typer.Context)
    globals_ = [
        inspect.Parameter(name, keyword, annotation=kind, default="" if name == "server" else False)
        for name, kind in GLOBAL.items()
        if name not in own
    ]
    parameters = [context, *(p.replace(kind=keyword) for p in given), *globals_]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = function.__doc__
    return run


def shell_of(shared: Mapping[str, Any]) -> Shell:
    return Shell(
        as_json=bool(shared.get("as_json")),
        no_color=bool(shared.get("no_color")),
        verbose=bool(shared.get("verbose")),
        server=str(shared.get("server") or ""),
    )
