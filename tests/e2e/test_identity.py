"""Who may say what: nodes under their own names only, clients by their role, nobody past the accounts."""

from harness import *


def sample(name, **names):
    """A golden input with other names in it."""
    with open(f"{ROOT}/protocol/samples/input/{name}.json", encoding="utf-8") as file:
        text = file.read()
    for old, new in names.items():
        text = text.replace(old, new)
    return json.loads(text)


async def test_a_body_that_names_another_node_than_its_subject_is_refused(c):
    node = await c.up.as_node()

    async def say(sender, inputs):
        return json.loads((await node.request(f"amphi.int.from.{sender}.shard.0.input", json.dumps({"inputs": inputs}).encode(), timeout=DEADLINE)).data)

    for name in ("join", "agent", "staff", "attempt"):
        told = sample(name)
        owner = next(iter(told.values()))["node"]
        reply = await say("ghost-9", [told])
        same(reply.get("error", {}).get("code"), "policy.denied", f"{name} of {owner} from ghost-9: {short(reply)}")
    # What people ask for comes through the front door, where they are known.
    for name in ("cancel_epic", "cancel_task", "retry_task", "resolve_incident", "submit", "lead", "lose_node", "silent", "tick"):
        reply = await say("node-1", [sample(name)])
        same(reply.get("error", {}).get("code"), "request.invalid", f"{name} from a node: {short(reply)}")
    await node.close()


if __name__ == "__main__":
    main(__name__)
