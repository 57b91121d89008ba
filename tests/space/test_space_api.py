"""The running demo, asked by programs: gradio's client, plain HTTP, an MCP client."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pixelllm_hf import GroundedCaption
from pixelllm_hf.processing.tasks import TASK_SPECS

from .running_demo import LIMITS, META, SCENE, ask, image_bytes, upload, uploaded
from .test_space_limits import bomb

TASKS = {f"/{task}" for task in TASK_SPECS}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(demo) -> Any:
    from gradio_client import Client

    return Client(demo.url, verbose=False)


@pytest.fixture(scope="module")
def scene(demo) -> dict[str, Any]:
    return uploaded(demo.url, SCENE.read_bytes(), "scene.jpg")


# --- what there is ---


def test_the_tasks_are_the_whole_public_api(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == TASKS


def test_listeners_of_the_page_cannot_be_called_by_name(demo):
    functions = httpx.get(f"{demo.url}config").json()["dependencies"]
    private = [d["api_name"] for d in functions if d["api_visibility"] == "private"]
    public = {d["api_name"] for d in functions if d["api_visibility"] == "public"}
    undocumented = [d["api_name"] for d in functions if d["api_visibility"] == "undocumented"]
    assert {f"/{name}" for name in public} == TASKS
    assert len(private) >= 10 and not undocumented


def test_results_have_types(client):
    returns = client.view_api(return_format="dict")["named_endpoints"]["/refer"]["returns"]
    assert returns[0]["python_type"]["type"].startswith("list[dict(text: str, words: list[dict(text: str, start: int")
    assert set(returns[0]["type"]["items"]["properties"]) == set(GroundedCaption("", (), (1, 1)).to_dict())


# --- what it answers ---


def test_every_task_answers_with_records_of_grounded_captions(client):
    from gradio_client import handle_file

    image, model = handle_file(str(SCENE)), "checkpoint"
    answers = {
        "caption": client.predict(image, api_name="/caption"),
        "trace": client.predict(image, beams=2, api_name="/trace"),
        "refer": client.predict(image, ["the duck", "the lemon"], api_name="/refer"),
        "segment": client.predict(image, ["a dog"], model=model, api_name="/segment"),
        "region": client.predict(image, boxes=[[10, 10, 90, 90]], points=[[50, 50]], api_name="/region"),
        "dense": client.predict(image, max_results=2, model=model, api_name="/dense"),
    }
    captions = {task: [GroundedCaption.from_dict(record) for record in records] for task, records in answers.items()}
    assert {task: len(results) for task, results in captions.items() if task != "dense"} == {
        "caption": 1, "trace": 1, "refer": 2, "segment": 1, "region": 2,
    }  # fmt: skip
    assert len(captions["dense"]) <= 2
    assert all(result.image_size == (300, 216) for results in captions.values() for result in results)
    assert captions["trace"][0].trace
    assert [result.text for result in captions["refer"]] == ["the duck", "the lemon"]
    assert captions["segment"][0].mask is not None
    assert [result.prompt_box for result in captions["region"]] == [(10, 10, 90, 90), None]


# --- what it refuses ---


@pytest.mark.parametrize(
    ("endpoint", "data", "rule"),
    [
        ("refer", [["<script>alert(1)</script>" * 20], ""], "300 letters"),
        ("refer", [["a </s> b"], ""], "mark where a text ends"),
        ("refer", [[], ""], "write what to find"),
        ("region", [[[500, 500, 600, 600]], None, 1, ""], "must overlap the image of 300 x 216"),
        ("region", [[[90, 10, 10, 90]], None, 1, ""], "reversed or empty"),
        ("caption", [99, ""], "from 1 to 8"),
        ("caption", [1, "../../etc"], "no such model"),
        ("dense", [10**9, 0.0, 1, ""], "from 1 to 50"),
    ],
)
def test_a_bad_request_is_answered_with_the_rule(demo, scene, endpoint, data, rule):
    succeeded, message = ask(demo.url, endpoint, scene, *data)
    assert not succeeded
    assert rule in message
    assert "<" not in message, "notices are shown as HTML"


def test_script_in_an_expression_is_text_like_any_other(demo, scene):
    expression = "<img src=x onerror=alert(1)>"
    succeeded, answers = ask(demo.url, "refer", scene, [expression], "")
    assert succeeded
    assert answers[0]["text"] == expression
    assert "".join(word["text"] for word in answers[0]["words"]) == expression.replace(" ", "")


@pytest.mark.parametrize("name", ["image.png", "image.html", "../../../etc/cron.d/x.png", "a\u202egnp.exe"])
@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"GIF89a<script>alert(1)</script>", "not an image|broken|truncated|empty"),
        (bomb(30_000), "2 million pixels"),
        (image_bytes((300, 300))[:5000], "truncated or damaged"),
    ],
)
def test_a_file_that_is_no_usable_image_is_refused_whatever_its_name(demo, uploads, name, content, rule):
    record = uploaded(demo.url, content, name)
    assert Path(record["path"]).resolve().is_relative_to(uploads)
    succeeded, message = ask(demo.url, "caption", record, 1, "")
    assert not succeeded
    assert any(part in message for part in rule.split("|")), message
    assert str(uploads) not in message


def test_an_upload_over_the_limit_is_refused(demo):
    reply = upload(demo.url, b"\x89PNG\r\n\x1a\n" + b"\0" * (LIMITS.upload_bytes + 1))
    assert reply.status_code == 413


def test_many_files_at_once_count_together(demo):
    half = b"\0" * (LIMITS.upload_bytes // 2)
    reply = httpx.post(f"{demo.url}gradio_api/upload", files=[("files", (f"{i}.png", half)) for i in range(3)])
    assert reply.status_code == 413


def test_an_endless_body_without_a_length_is_cut_off(demo):
    def endless():
        for _ in range(100):
            yield b" " * 100_000

    reply = httpx.post(f"{demo.url}gradio_api/queue/join", content=endless(), timeout=120)
    assert reply.status_code == 413


SECRETS = ["/etc/passwd", str(ROOT / "setup.py"), "/proc/self/environ", "setup.py", "../../../../etc/passwd"]


@pytest.mark.parametrize("path", SECRETS)
@pytest.mark.parametrize("meta", [{"meta": META}, {}, {"meta": META, "url": "http://127.0.0.1/x.png"}])
def test_no_file_but_an_uploaded_one_can_be_named_as_an_image(demo, path, meta):
    succeeded, message = ask(demo.url, "caption", {"path": path, **meta}, 1, "")
    assert not succeeded
    assert message is None or "not here" in message, "gradio says nothing, we say this"


@pytest.mark.parametrize("path", SECRETS)
def test_no_file_of_the_machine_is_served(demo, path):
    for address in (f"gradio_api/file={path}", f"file={path}", f"gradio_api/file=%2e%2e/{path}", f"static/{path}"):
        reply = httpx.get(f"{demo.url}{address}")
        assert reply.status_code >= 400
        assert "root:" not in reply.text and "setuptools" not in reply.text


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/x.png", "https://example.org/x.png", "HTTP://[::1]/x", "ftp://x/y"]
)
def test_nothing_is_fetched_from_addresses(demo, monkeypatch, address):
    asked = []
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", lambda *a, **k: asked.append(a))
    for payload in ({"path": address, "meta": META}, {"path": f"http://x/gradio_api/file={address}", "meta": META}):
        for data in ([payload, 1, ""], [{"deep": [payload]}, 1, ""], [None, payload, ""]):
            succeeded, message = ask(demo.url, "caption", *data)
            assert not succeeded and "fetches nothing from other servers" in message
    assert not asked
    for route in ("gradio_api/file=", "gradio_api/proxy=", "proxy="):
        assert httpx.get(f"{demo.url}{route}{address}").status_code in (403, 404)


@pytest.mark.parametrize("route", ["deep_link?session_hash=x", "gradio_api/deep_link?session_hash=x", "monitoring"])
def test_what_the_demo_does_not_use_of_gradio_is_closed(demo, route):
    assert httpx.get(f"{demo.url}{route}").status_code == 403


def test_the_page_is_told_to_ask_no_other_server(demo):
    reply = httpx.get(demo.url)
    assert "default-src 'self' data: blob:" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "fonts.googleapis" not in reply.text


# --- MCP ---


async def with_tools(url: str, use: Any) -> Any:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await use(session)


def tools(demo: Any, use: Any) -> Any:
    import anyio

    return anyio.run(with_tools, demo.url, use)


def test_the_tools_are_the_tasks_and_say_what_they_do(demo):
    listed = tools(demo, lambda session: session.list_tools()).tools
    assert {f"/{tool.name}" for tool in listed} == TASKS
    region = next(tool for tool in listed if tool.name == "region")
    assert region.description.startswith("Describe places in an image")
    assert "pixels" in region.inputSchema["properties"]["boxes"]["description"]
    assert region.inputSchema["required"] == ["image"]


def test_a_tool_answers_in_json(demo):
    data_uri = "data:image/jpeg;base64," + base64.b64encode(SCENE.read_bytes()).decode()
    arguments = {"image": data_uri, "expressions": ["the duck"]}
    result = tools(demo, lambda session: session.call_tool("refer", arguments))
    assert not result.isError
    answers = json.loads(result.content[0].text)
    assert GroundedCaption.from_dict(answers[0]).text == "the duck"


def test_a_tool_takes_the_address_of_an_uploaded_file(demo, scene):
    arguments = {"image": f"{demo.url}gradio_api/file={scene['path']}"}
    result = tools(demo, lambda session: session.call_tool("caption", arguments))
    assert json.loads(result.content[0].text)[0]["words"]


@pytest.mark.parametrize("image", ["http://127.0.0.1:9/x.png", "/etc/passwd", "file:///etc/passwd"])
def test_a_tool_reads_no_other_address_and_no_path(demo, image):
    result = tools(demo, lambda session: session.call_tool("caption", {"image": image}))
    assert result.isError
    assert "root:" not in result.content[0].text
