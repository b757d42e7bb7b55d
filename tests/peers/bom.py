"""Checks a bill of materials on stdin against CycloneDX's own schema, strictly."""

import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read())
if error:
    # The rest of it is the schema and the document.
    sys.exit(f"not CycloneDX 1.5: {str(error).splitlines()[0]}")
print(json.dumps(True))
