"""Many jobs in one call: each for itself, each once, in order."""

import pytest

import rbee
from wire import errors


def asking(prompt, **options):
    return {"model": "rbee-tiny", "prompt": prompt, "max_tokens": 2, "priority": "batch", **options}


async def test_what_is_wrong_with_one_job_does_not_hold_up_the_others(queen):
    async with rbee.connect(queen.address) as client:
        jobs = [("b-1", asking("one")), ("b-2", asking("two", model="nobody-has-this")), ("b-3", asking("three"))]
        first, refused, third = await client.submit_batch(jobs)
        assert isinstance(refused, errors.NotFound)
        assert refused.reason == "MODEL_NOT_FOUND"
        assert refused.retry_after_s is None
        assert await client.watch(first).text()
        assert await client.watch(third).text()
        assert (await client.get_job(third)).attempts, "it ran"


async def test_a_job_handed_in_again_is_the_same_job(queen):
    async with rbee.connect(queen.address) as client:
        jobs = [(f"again-{n}", asking(f"Say {n}")) for n in (1, 2, 1, 3)]
        ids = await client.submit_batch(jobs)
        assert ids[0] == ids[2]
        assert len(set(ids)) == 3
        assert await client.submit_batch(jobs) == ids
        assert (await client.submit(request_id="again-2", **asking("Say 2"))).id == ids[1]
        listed = [job.id async for job in client.list_jobs()]
        assert [listed.count(one) for one in ids] == [1, 1, 1, 1]


async def test_jobs_come_in_the_order_of_the_call(queen):
    async with rbee.connect(queen.address) as client:
        ids = await client.submit_batch([(f"order-{n}", asking(f"Say {n}")) for n in range(100)])
        listed = [job.id async for job in client.list_jobs() if job.id in set(ids)]
        assert listed == ids[::-1]


@pytest.mark.parametrize("count", [0, 1001])
async def test_too_few_or_too_many_are_refused_as_a_whole(queen, count):
    async with rbee.connect(queen.address) as client:
        with pytest.raises(errors.Invalid, match="1 to 1,000 jobs"):
            await client.submit_batch([(f"many-{count}-{n}", asking("x")) for n in range(count)])
