"""The client that blocks has all that the other has, and its policies and tenants work over a real queen."""

import inspect

import pytest

import rbee
from client.blocking import SyncClient
from client.blocking_policies import SyncPolicies
from client.blocking_tenants import SyncTenants
from client.client import Client
from client.policies import PolicyCalls
from client.tenants import Tenants
from programs import running_queen
from rbee.v1 import policy_service_pb2, tenant_pb2

POLICY = "function schedule(context) return platform.schedule(context) end"
CLUSTER = """
models: [{name: m, file_size: 1MB, speeds: {cpu: {prefill: 1000, decode: 100}}}]
machines: [{name: a, devices: [{kind: cpu, memory: 1GB}], workers: [{model: m}]}]
"""


def surface(kind):
    members = inspect.getmembers_static(kind)
    return {
        name: [*inspect.signature(member).parameters] if inspect.isfunction(member) else None
        for name, member in members
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("blocking", "whole"), [(SyncClient, Client), (SyncPolicies, PolicyCalls), (SyncTenants, Tenants)]
)
def test_it_has_the_same_surface(blocking, whole):
    assert surface(blocking) == surface(whole)


def test_policies_and_tenants(tmp_path):
    with running_queen(tmp_path, hive=False) as queen, rbee.connect_sync(queen.address) as client:
        assert client.policies.validate(POLICY, "mine.lua").valid
        assert client.policies.save("mine", POLICY).version == "1.0.0"
        assert client.policies.activate("mine").active
        assert [one.name for one in client.policies.list()] == ["mine", "platform"]
        assert client.policies.get("mine").source == POLICY
        assert client.policies.standing().policy.name == "mine"
        assert client.policies.rollback().name == "platform"
        assert "function schedule" in client.policies.platform_source()
        assert "cost-optimizer" in [one.name for one in client.policies.templates()]
        with pytest.raises(rbee.NotFound):
            client.policies.get("nobody")
        asked = policy_service_pb2.PolicyServiceSimulateRequest(
            cluster_yaml=CLUSTER, traffic_yaml="arrivals: {rate: 1, duration: 20s}"
        )
        assert [*client.policies.simulate(asked)][-1].report_json
        cases = "cases: []"
        with pytest.raises(rbee.Invalid):
            client.policies.test(POLICY, "mine.lua", cases, "mine.cases.yaml")

        assert client.tenants.create(tenant_pb2.Tenant(id="lab")).id == "lab"

        def weigh(tenant):
            tenant.weight = 3.0

        assert client.tenants.change("lab", weigh).weight == 3.0
        assert [one.id for one in client.tenants.list()] == ["default", "lab"]
        assert client.tenants.get("lab").weight == 3.0
        assert client.tenants.usage("lab").jobs == 0
        (refused,) = client.submit_batch([("b-1", {"model": "nobody-has-this", "prompt": "x"})])
        assert isinstance(refused, rbee.RbeeError)
        assert client.is_serving(5.0)
