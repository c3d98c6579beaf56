"""Prints the JSON Schema of YAML policies: python -m queen.policy.yaml_compiler > policies/schema.json."""

import json

from queen.policy.yaml_compiler.schema import schema

print(json.dumps(schema(), indent=2, ensure_ascii=False))
