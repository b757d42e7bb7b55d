#!/usr/bin/env python3
"""Renders the mixin: rules for Prometheus and its Operator, and dashboards. Needs `pip install rjsonnet`.

render.py                              writes the rules in deploy/prometheus
render.py --check                      says whether they are what it would write
render.py --config FILE --output DIR   writes rules and dashboards into DIR, with the values of FILE (JSON or Jsonnet) in place of
                                       those of config.libsonnet
"""

import argparse
import json
import pathlib
import sys

import rjsonnet

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


def rendered(config, dashboards):
    """The text of each file, by its path in the repository."""
    values = "{}" if config is None else f"import {json.dumps(str(config.resolve()))}"
    arguments = {"config": values, "dashboards": json.dumps(dashboards)}
    return json.loads(rjsonnet.evaluate_file(str(HERE / "files.jsonnet"), tla_codes=arguments))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--config", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()
    stale = []
    # dashboards/generate.py writes the dashboards of the repository; here they only take on values.
    for name, text in rendered(arguments.config, arguments.output is not None).items():
        path = (arguments.output or REPOSITORY) / name
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        sys.exit(f"not what render.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
