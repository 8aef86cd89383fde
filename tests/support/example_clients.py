"""The clients of ``examples/clients``, built with warnings as errors, and run as a user runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.needs import needs
from tests.support.service import ROOT, RunningDispatcher, wait_until

CLIENTS = ROOT / "examples" / "clients"
JARS = [Path("/usr/share/java") / name for name in ("jeromq.jar", "gson.jar")]
PATIENCE_S = 60.0
BUILD_S = 300.0
SANITIZED = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")  # leaks fail a run as well
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
ENVIRONMENT = {"LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Ended:
    code: int
    lines: list[str]
    error: str


class Program:
    """A client that runs: a context manager, which kills what has not ended."""

    def __init__(self, directory: Path, *command: str) -> None:
        self._out, self._error = directory / "out", directory / "error"  # files: it must flush by itself
        with self._out.open("wb") as out, self._error.open("wb") as error:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, env=os.environ | ENVIRONMENT
            )

    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    def shown(self, count: int) -> list[str]:
        """Its lines, once there are so many."""
        wait_until(lambda: len(self.lines()) >= count, PATIENCE_S, f"{count} lines; {self._error.read_text()}")
        return self.lines()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ended(self) -> Ended:
        code = self._process.wait(PATIENCE_S)
        return Ended(code, self.lines(), self._error.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()


class ExampleClient:
    """One that is built. ``at`` gives the options that lead it to a dispatcher."""

    def __init__(self, directory: Path, *command: str | Path) -> None:
        self._directory = directory
        self._command = tuple(map(str, command))

    def started(self, *arguments: str | Path) -> Program:
        return Program(self._directory, *self._command, *map(str, arguments))

    def run(self, *arguments: str | Path) -> Ended:
        with self.started(*arguments) as program:
            return program.ended()

    def done(self, *arguments: str | Path) -> list[str]:
        """What it prints, with exit code 0."""
        ended = self.run(*arguments)
        assert (ended.code, ended.error) == (0, ""), ended
        return ended.lines

    @staticmethod
    def at(service: RunningDispatcher) -> tuple[str, ...]:
        return "--submit", service.submit, "--ingest", service.ingest, "--stream", service.stream


def build(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, cwd=cwd, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    assert done.stderr == "", done.stderr


def works(*command: str) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, timeout=BUILD_S, check=False).returncode == 0


def c(directory: Path) -> ExampleClient:
    headers = ("-include", "zmq.h", "-include", "jansson.h")
    has_all = works("cc", "-fsyntax-only", *headers, "-x", "c", "/dev/null")
    needs(has_all, "no C compiler with libzmq and jansson; Debian: gcc libc6-dev libzmq3-dev libjansson-dev")
    program = directory / "client"
    build("cc", *STRICT, *SANITIZED, "-o", program, CLIENTS / "c" / "client.c", "-lzmq", "-ljansson")
    return ExampleClient(directory, program)


def cpp(directory: Path) -> ExampleClient:
    headers = ("-include", "zmq.hpp", "-include", "nlohmann/json.hpp")
    has_all = works("c++", "-fsyntax-only", *headers, "-x", "c++", "/dev/null")
    needs(has_all, "no C++ compiler with cppzmq and JSON; Debian: g++ libzmq3-dev cppzmq-dev nlohmann-json3-dev")
    program = directory / "client"
    build("c++", "-std=c++17", *STRICT, *SANITIZED, "-o", program, CLIENTS / "cpp" / "client.cpp", "-lzmq")
    return ExampleClient(directory, program)


def node(directory: Path) -> ExampleClient:
    needs(shutil.which("node"), "no node; Debian: nodejs npm")
    places = [CLIENTS / "node" / "node_modules"]
    if elsewhere := os.environ.get("CLIENT_NODE_MODULES"):
        places.insert(0, Path(elsewhere))
    modules = next((place for place in places if (place / "zeromq").is_dir()), None)
    needs(modules, "no node_modules with zeromq; npm install in examples/clients/node, or set CLIENT_NODE_MODULES")
    assert modules is not None
    for name in ("client.ts", "package.json", "tsconfig.json"):
        shutil.copy(CLIENTS / "node" / name, directory)
    (directory / "node_modules").symlink_to(modules.absolute())
    build("node", modules.absolute() / "typescript" / "bin" / "tsc", cwd=directory)
    return ExampleClient(directory, "node", directory / "client.js")


def ruby(directory: Path) -> ExampleClient:
    needs(works("ruby", "-e", "require 'ffi-rzmq'"), "no ruby with ffi-rzmq; Debian: ruby ruby-ffi-rzmq")
    source = CLIENTS / "ruby" / "client.rb"
    build("ruby", "-wc", source)
    return ExampleClient(directory, "ruby", source)


def java(directory: Path) -> ExampleClient:
    has_all = works("javac", "--version") and works("java", "--version") and all(jar.exists() for jar in JARS)
    needs(has_all, "no Java with JeroMQ and Gson; Debian: default-jdk-headless libjeromq-java libgoogle-gson-java")
    jars = ":".join(map(str, JARS))
    build("javac", "-Xlint:all", "-Werror", "-cp", jars, "-d", directory, CLIENTS / "java" / "Client.java")
    return ExampleClient(directory, "java", "-cp", f"{directory}:{jars}", "Client")


BUILDERS: dict[str, Callable[[Path], ExampleClient]] = {"c": c, "node": node, "cpp": cpp, "ruby": ruby, "java": java}
WITHOUT_CURVE = {"java"}
# each run of the tests tries these two; `make clients` tries all
LANGUAGES = list(BUILDERS) if os.environ.get("CLIENTS") == "all" else ["c", "node"]
