"""``python -m hack.cluster``: a Kubernetes node on this host, without Docker."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from hack.cluster import ClusterError
from hack.cluster.binaries import CACHE, PROGRAMS, ensure
from hack.cluster.host import IMAGE_PROGRAMS, NODE_PROGRAMS, require
from hack.cluster.image_names import full_name
from hack.cluster.images import build
from hack.cluster.node import LOAD_PATIENCE, STATE, Node, locked


def main() -> int:
    """Run one command. Returns 0 if it succeeded and 1 if it failed. Bad usage exits with 2."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.command(arguments) or 0)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    add("up", _up, "start the node, or those of its components that do not run")
    add("down", _down, "delete its Pods, stop it and remove all its state")
    add("status", _status, "show which components run; exit status 1 unless all do")
    add("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig")
    add("env", _env, 'print what a shell needs to use the node: eval "$(python -m hack.cluster env)"')
    load = add("load", _load, "load images from OCI or Docker archives")
    load.add_argument("archives", nargs="+", type=Path, metavar="IMAGE.tar")
    program = add("load-program", _load_program, "load one of the cached programs as an image of its own")
    program.add_argument("program", choices=sorted(PROGRAMS), metavar="PROGRAM")
    program.add_argument("image", type=_image_name, metavar="IMAGE")
    image = add("image", _image, "build a Dockerfile with buildah, and load the image if a node is up")
    image.add_argument("--file", type=Path, required=True, metavar="DOCKERFILE")
    image.add_argument("--tag", type=_image_name, required=True, metavar="IMAGE", help="its name, as a manifest has it")
    image.add_argument("--build-arg", action="append", default=[], type=_assignment, metavar="NAME=VALUE")
    image.add_argument("context", nargs="?", type=Path, default=Path())
    restart = add("restart", _restart, "stop components and start them again, to test what that breaks")
    restart.add_argument("components", nargs="+", metavar="COMPONENT")
    build_programs = add("build", _build, "build programs into the cache and print where they are")
    build_programs.add_argument("programs", nargs="+", choices=sorted(PROGRAMS), metavar="PROGRAM")
    return parser


def _up(_: argparse.Namespace) -> None:
    require(NODE_PROGRAMS)
    with locked(STATE):
        node = Node(STATE)
        node.up()
    print(f"export KUBECONFIG={node.control_plane.kubeconfig}")


def _down(_: argparse.Namespace) -> None:
    with locked(STATE):
        if STATE.exists():
            Node(STATE).down()
        else:
            print("no node is up")


def _status(_: argparse.Namespace) -> bool:
    running = {process.name: process.pid for process in _existing().processes}
    for name, pid in running.items():
        print(f"{name:24} {f'running, pid {pid}' if pid else 'stopped'}")
    return None in running.values()


def _kubeconfig(_: argparse.Namespace) -> None:
    print(_existing().control_plane.kubeconfig)


def _env(_: argparse.Namespace) -> None:
    kubeconfig = _existing().control_plane.kubeconfig
    folders = dict.fromkeys(str(path.parent) for path in ensure(["kubectl", "helm"]).values())
    print(f"export KUBECONFIG={shlex.quote(str(kubeconfig))}")
    print(f'export PATH={shlex.quote(":".join(folders))}:"$PATH"')


def _load(arguments: argparse.Namespace) -> None:
    with locked(STATE, LOAD_PATIENCE):
        for archive in arguments.archives:
            _existing().load(archive)


def _load_program(arguments: argparse.Namespace) -> None:
    with locked(STATE, LOAD_PATIENCE):
        _existing().load_program(arguments.program, arguments.image)


def _image(arguments: argparse.Namespace) -> None:
    require(IMAGE_PROGRAMS)
    CACHE.mkdir(parents=True, exist_ok=True)
    identity = build(arguments.file, arguments.tag, arguments.context, dict(arguments.build_arg))
    print(f"built {arguments.tag}", flush=True)
    with locked(STATE, LOAD_PATIENCE):
        if STATE.exists():
            Node(STATE).load_image(arguments.tag, identity)
        else:
            print("no node is up to load it into")


def _restart(arguments: argparse.Namespace) -> None:
    with locked(STATE):
        node = _existing()
        processes = {process.name: process for process in node.processes}
        for name in arguments.components:
            if name not in processes:
                raise ClusterError(f"no component {name!r}: one of {', '.join(processes)}")
        for name in arguments.components:
            processes[name].stop()
        # `up` starts each component once those that it needs answer: a kubelet exits if its runtime is gone.
        node.up()


def _build(arguments: argparse.Namespace) -> None:
    for name, path in ensure(arguments.programs).items():
        print(f"{name} {path}")


def _existing() -> Node:
    if not STATE.exists():
        raise ClusterError("no node is up: run `python -m hack.cluster up` first")
    return Node(STATE)


def _image_name(text: str) -> str:
    try:
        return full_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
