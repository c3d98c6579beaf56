"""Clients generated from proto/ in other languages compile, strictly checked, with a program that uses them."""

import pytest

from contracts.clients.check import Missing, check_go, check_typescript
from programs import skip_or_fail


@pytest.mark.timeout(600)  # compiling gRPC for Go the first time takes minutes on a small machine
@pytest.mark.parametrize("check", [check_go, check_typescript])
def test_a_generated_client_compiles(check, tmp_path):
    try:
        check(tmp_path)
    except Missing as problem:
        skip_or_fail(problem)
