"""YAML policies: rules with conditions and actions, compiled to readable Lua of the policy language."""

from queen.policy.yaml_compiler.compiler import Cache, Compiled, compile, is_yaml  # noqa: A004 - its word
from queen.policy.yaml_compiler.problems import Problem

__all__ = ["Cache", "Compiled", "Problem", "compile", "is_yaml"]
