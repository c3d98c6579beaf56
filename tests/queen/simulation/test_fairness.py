"""Fair shares through the platform policy."""

from random import Random

import pytest

from queen.simulation.report import report_on
from queen.simulation.run import simulate
from queen.simulation.traffic import drawn, read_traffic
from scenes import cluster, platform


def shares(loud, weight):
    """Two tenants, one sending so many times the load of the other, both more than the cluster can do."""
    traffic = read_traffic(
        f"""
        arrivals: {{rate: 9, duration: 60s}}
        tenants:
          - {{name: loud, share: {loud}}}
          - {{name: quiet, share: 1, weight: {weight}}}
        prompt_tokens: {{median: 40, sigma: 0.7, most: 200}}
        generated_tokens: {{median: 20, sigma: 0.7, most: 100}}
        """,
        ("small",),
    )
    requests = drawn(traffic, Random(5))
    weights = {tenant.name: tenant.weight for tenant in traffic.tenants}
    run = simulate(
        cluster(slots=4, workers=1),
        requests,
        platform(),
        weights=weights,
        timeout_s=1000.0,
        horizon_s=60.0,
    )
    report = report_on(run)
    assert all(tenant.waiting > 5 for tenant in report.tenants), "both have work queued to the end"
    theirs, quiet = (tenant.contended_service for tenant in report.tenants)
    return quiet / (theirs + quiet), report


@pytest.mark.parametrize(("loud", "weight", "share"), [(10, 1, 0.5), (4, 3, 0.75)])
def test_shares_are_by_weight_however_much_one_sends(loud, weight, share):
    quiet, report = shares(loud, weight)
    assert quiet == pytest.approx(share, rel=0.1)
    assert report.fairness_contended > 0.98
