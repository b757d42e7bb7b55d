"""Reads a Compose file with a parser of the Compose Specification, for tests/compose.rs.

The file on stdin, the same as JSON on stdout, with merge keys resolved.
"""

import json
import re
import sys

import yaml
from compose_spec import PyCompose


def main():
    text = sys.stdin.read()
    # The parser takes a tag or a digest of an image; Docker takes both and goes by the digest.
    without_tags = re.sub(r"(image: [^\s@]*):[^\s:@]*@", r"\1@", text)
    PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(without_tags))).validate()
    json.dump(yaml.safe_load(text), sys.stdout)


main()
