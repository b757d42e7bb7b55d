"""Reads dashboards with Grafana's own types and writes them again. A lost field is one that Grafana does not have.

Usage: grafana_dashboards.py FILE...
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


# Fields of an annotation that the types leave to the data source, here to Grafana's Prometheus.
OF_PROMETHEUS = {"step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}


def lost(before, after, path):
    """The differences between the two. Empty values may be missing."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name in after:
                yield from lost(value, after[name], f"{path}/{name}")
            elif name in OF_PROMETHEUS and "/annotations/list/" in path:
                continue
            elif value not in (None, False, "", [], {}):
                yield f"{path}/{name}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}/{index}")
    elif before != after:
        yield path


register_default_plugins()
findings = []
for file in sys.argv[1:]:
    with open(file) as opened:
        read = json.load(opened)
    written = json.loads(json.dumps(Dashboard.from_json(read), cls=JSONEncoder))
    findings += lost(read, written, file)
sys.exit("\n".join(findings) if findings else 0)
