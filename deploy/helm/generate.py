"""Makes the parts of the chart that have their source elsewhere: the table of values in README.md (from the comments of
values.yaml), the rules (from deploy/prometheus) and the dashboards (from dashboards).

    python deploy/helm/generate.py           writes them
    python deploy/helm/generate.py --check   names those that are not what it would write, and fails if there are any
"""

import json
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/cognito-auth-exporter"
BEGIN, END = "<!-- values: made by deploy/helm/generate.py -->\n", "<!-- end of values -->\n"


def comment_above(lines, number):
    """The comment on the lines directly above a line."""
    found = []
    while number > 0 and lines[number - 1].lstrip().startswith("#"):
        number -= 1
        found.insert(0, lines[number].lstrip().removeprefix("#").strip())
    return " ".join(found)


def rows(mapping, lines, prefix=""):
    """A row for each value that has a comment of its own. One without belongs to the map around it, which has one."""
    for key, value in mapping.value:
        path = prefix + key.value
        comment = comment_above(lines, key.start_mark.line)
        is_section = isinstance(value, yaml.MappingNode) and value.value
        children = list(rows(value, lines, f"{path}.")) if is_section else []
        if children:
            yield from children
        elif comment:
            yield path, default(value), comment
        elif not prefix:
            sys.exit(f"values.yaml: {path} has no comment")


def default(node):
    value = yaml.SafeLoader("").construct_document(node)
    return json.dumps(value) if value != {} else "{}"


def readme():
    text = (CHART / "values.yaml").read_text()
    cell = lambda text: text.replace("|", "\\|")  # noqa: E731
    table = ["| value | default | meaning |", "|---|---|---|"]
    for path, value, comment in rows(yaml.compose(text), text.splitlines()):
        table.append(f"| `{path}` | `{cell(value)}` | {cell(comment)} |")
    before, rest = (CHART / "README.md").read_text().split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n" + "\n".join(table) + "\n\n" + END + after


def generated():
    files = {CHART / "README.md": readme()}
    files[CHART / "files/rules.yml"] = (ROOT / "deploy/prometheus/rules.yml").read_text()
    for dashboard in sorted((ROOT / "dashboards").glob("*.json")):
        files[CHART / "files/dashboards" / dashboard.name] = dashboard.read_text()
    return files


def main():
    files = generated()
    present = {path for path in (CHART / "files").rglob("*") if path.is_file()}
    surplus = present - set(files)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in sorted([*stale, *surplus]):
            print(f"{path.relative_to(ROOT)} is not what deploy/helm/generate.py makes: run it", file=sys.stderr)
        sys.exit(bool(stale or surplus))
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    for path in surplus:
        path.unlink()


main()
