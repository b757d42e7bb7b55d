#!/usr/bin/env python3
"""Renders the mixin: rules for Prometheus and its Operator, and dashboards. Needs `pip install jsonnet`.

render.py                              writes deploy/prometheus and dashboards, as they are in this repository
render.py --check                      says which of these files are not what it would write
render.py --config FILE --output DIR   writes into DIR with the values of FILE, JSON or Jsonnet, in place of those of config.libsonnet
"""

import argparse
import json
import pathlib
import sys

import _jsonnet

HERE = pathlib.Path(__file__).resolve().parent


def rendered(config):
    """The text of each file, by its path from here."""
    code = "{}" if config is None else f"import {json.dumps(str(config.resolve()))}"
    return json.loads(_jsonnet.evaluate_file(str(HERE / "files.jsonnet"), tla_codes={"config": code}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--config", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()
    stale = []
    for name, text in rendered(arguments.config).items():
        path = arguments.output / pathlib.Path(name).name if arguments.output else (HERE / name).resolve()
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        sys.exit(f"not what render.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
