"""The command line: functions become typer commands, and the fields of settings become their flags.

A command is a function with parameters declared for typer. A parameter `config`, of a subclass of `Settings`, becomes
one flag per field, and `--config` for a file of them. typer only reads the command line. It returns a `Call`, which
runs outside of typer: errors and signals are handled here.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import Any

import typer

from ..errors import InputError
from .help import GENERAL, ReadableCommand, as_markup, group_class
from .options import Field, fields_of
from .settings import Settings
from .text import in_words
from .values import read_value

PROGRAM = "probe"
COMPLETE = "_PROBE_COMPLETE"
"""Environment variable by which a shell asks typer for completions."""
CONFIG = "config"


class UsageError(InputError):
    """A command line that cannot be read."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(f"{command}: {message}{' See' if message.endswith('?') else '; see'} {command} --help")


@dataclass(frozen=True)
class Command:
    """A command and its function.

    Attributes:
        function: the function to run.
        group: name of its group, or empty.
        arguments: its parameters for typer, by name.
        settings: class of its parameter `config`, if it has one.
        summary: one sentence about the command.
        examples: command lines, shown in its help.
    """

    function: Callable[..., None]
    group: str
    arguments: Mapping[str, inspect.Parameter]
    settings: type[Settings] | None
    summary: str
    examples: str

    @property
    def name(self) -> str:
        """Name of the command, behind that of its group: "fit", "heads list"."""
        return f"{self.group} {self.own_name}".strip()

    @property
    def own_name(self) -> str:
        """Name of the command within its group."""
        return self.function.__name__.removeprefix("_")

    @property
    def fields(self) -> dict[str, Field]:
        """Fields of the settings, by name."""
        return fields_of(self.settings) if self.settings else {}

    @property
    def signature(self) -> inspect.Signature:
        """The signature for typer: the function's own parameters, one flag per field, and the shared flags."""
        fields = [_parameter_of(field) for field in self.fields.values()]
        if self.settings:
            text = "YAML file whose keys are these options. A flag wins over it."
            fields.append(_parameter(CONFIG, str, "--config", metavar="FILE", help=text))
        shared = [
            _parameter("verbose", bool, "-v", "--verbose", help="Show details."),
            _parameter("quiet", bool, "-q", "--quiet", help="Show only warnings and errors."),
        ]
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in self.arguments.values()]
        general = [each for each in own if each.annotation.__metadata__[0].rich_help_panel == GENERAL]
        return inspect.Signature([*(each for each in own if each not in general), *fields, *general, *shared])


@dataclass(frozen=True)
class Call:
    """A command with the values from the command line.

    Attributes:
        command: the command.
        given: values by parameter, as typer read them.
    """

    command: Command
    given: Mapping[str, Any]

    @property
    def path(self) -> str:
        """Program and command, such as "probe fit"."""
        return f"{PROGRAM} {self.command.name}"

    def run(self) -> None:
        """Call the function."""
        arguments = self.arguments()
        from .console import shown  # loads rich

        with shown(bool(self.given.get("verbose")) - bool(self.given.get("quiet"))):
            self.command.function(**arguments)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the function.

        Raises:
            InputError: a value is wrong, or missing.
            MissingError: there is no such config file.
        """
        arguments = {name: self.given[name] for name in self.command.arguments if name in self.given}
        missing = [
            each.annotation.__metadata__[0].metavar
            for name, each in self.command.arguments.items()
            if each.default is each.empty and not arguments.get(name)
        ]
        values = self._file_values() | self._flag_values()
        missing += [field.flag for name, field in self.command.fields.items() if field.required and name not in values]
        if missing:
            raise UsageError(self.path, f"{in_words(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        return arguments | ({CONFIG: self.command.settings(**values)} if self.command.settings else {})

    def _file_values(self) -> dict[str, Any]:
        path = self.given.get(CONFIG)
        if path is None or self.command.settings is None:
            return {}
        from .config_file import read_config_file

        return read_config_file(self.command.settings, path)

    def _flag_values(self) -> dict[str, Any]:
        fields = self.command.fields
        given = {name: self.given[name] for name in fields if self.given.get(name) is not None}
        flags = {flag for field in fields.values() for flag in field.flags}
        for name, value in given.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and (text.startswith("--") or text in flags):
                    raise InputError(f"{fields[name].flag} needs a value, and {text!r} is a flag")
        return {name: read_value(fields[name], value, fields[name].flag) for name, value in given.items()}


class Program:
    """A program of several commands, or a group of them.

    Attributes:
        commands: the commands by name, those of groups too.
    """

    def __init__(self, app: typer.Typer, name: str = "", commands: dict[str, Command] | None = None) -> None:
        """Start without commands; `app` has none yet. A group has a name, and the `commands` of its program."""
        self._app, self._name = app, name
        self.commands: dict[str, Command] = {} if commands is None else commands

    def group(self, name: str, summary: str, panel: str, default: str) -> "Program":
        """Add a group of commands, `NAME COMMAND`.

        Args:
            name: of the group.
            summary: one sentence about its commands.
            panel: of the program's help.
            default: the command that `NAME` runs if no command of the group follows.
        """
        app = typer.Typer(cls=group_class(default), help=summary, rich_markup_mode="rich")
        self._app.add_typer(app, name=name, rich_help_panel=panel)
        return Program(app, name, self.commands)

    def command(self, summary: str, panel: str, examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Make a function a command.

        Args:
            summary: one sentence about the command.
            panel: of the program's help.
            examples: command lines, shown at the end of its help.
        """

        def add(function: Callable[..., None]) -> Callable[..., None]:
            parameters = dict(inspect.signature(function).parameters)
            config = parameters.pop(CONFIG, None)
            settings = config.annotation if config else None
            command = Command(function, self._name, parameters, settings, summary, examples.strip("\n"))

            def read(**given: Any) -> Call:
                return Call(command, given)

            read.__signature__ = command.signature  # type: ignore[attr-defined]
            self._app.command(
                command.own_name,
                cls=ReadableCommand,
                help=summary,
                epilog=as_markup("\nExamples:\n" + indent(command.examples, "  ")),
                rich_help_panel=panel,
            )(read)
            self.commands[command.name] = command
            return function

        return add

    def parse(self, argv: Sequence[str]) -> Call | int:
        """Read a command line.

        Args:
            argv: without the program's name.

        Returns:
            The call, or an exit status if typer has done all the work, such as showing help.

        Raises:
            BrokenPipeError: the reader of the help has closed the pipe.
            UsageError: the command line is wrong.
        """
        bare = " ".join(argv)
        if bare in self.commands:
            return Call(self.commands[bare], {})  # its error names all missing arguments, typer's only the first
        try:
            program = typer.main.get_command(self._app)
            done: Call | int = program.main(args=[*argv] or ["--help"], prog_name=PROGRAM, standalone_mode=False)
        except typer.TyperException as error:
            raise UsageError(self._path_of(argv), _message_of(error)) from None
        except SystemExit as stopped:
            if stopped.code == 1 and COMPLETE not in os.environ:  # rich exits like this on a closed pipe
                raise BrokenPipeError from None
            raise
        return done

    def _path_of(self, argv: Sequence[str]) -> str:
        """Return the program with the command, or the group of commands, that a command line begins with."""
        groups = {command.group for command in self.commands.values()} - {""}
        known = [name for n in (2, 1) if (name := " ".join(argv[:n])) in {*self.commands, *groups}]
        return " ".join([PROGRAM, *known[:1]])


def _parameter(name: str, kind: type[Any], *flags: str, panel: str = GENERAL, **about: Any) -> inspect.Parameter:
    """Return a parameter whose flag may be absent."""
    option = typer.Option(None, *flags, rich_help_panel=panel, show_default=False, **about)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def _parameter_of(field: Field) -> inspect.Parameter:
    note = "required" if field.required else f"default: {field.default}" if field.default else ""
    return _parameter(
        field.name,
        bool if field.type is bool else list[str] if field.several else str,
        *field.flags,
        panel=field.option.panel,
        help=as_markup(field.text) + (f" [dim]{as_markup(f'[{note}]')}[/dim]" if note else ""),
        metavar=field.metavar,
        autocompletion=_completer(field.choices) if field.choices else None,
    )


def _completer(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a function that completes a choice, or the last choice of a list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        left = [choice for choice in choices if choice not in before.split(",")]
        return [before + comma + choice for choice in left if choice.startswith(last)]

    return complete


def _message_of(error: typer.TyperException) -> str:
    """Write an error of typer's parser in one line, like our own errors."""
    near = getattr(error, "possibilities", None)
    if near:
        return f"no such option: {error.option_name}; did you mean {' or '.join(near)}?"  # type: ignore[attr-defined]
    message = " ".join(error.format_message().split()).removesuffix(".").replace(". Did you mean", "; did you mean")
    return message[:1].lower() + message[1:]
