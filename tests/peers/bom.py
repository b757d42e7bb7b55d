"""Checks a bill of materials on stdin against CycloneDX's own schema, strictly."""

import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read())
if error:
    sys.exit(f"not CycloneDX 1.5: {error}")
print(json.dumps(True))
