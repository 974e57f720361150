"""The list of models in OpenAI's form and in ours, as OpenAI's own client and others ask for it."""

from __future__ import annotations

import aiohttp
import openai
import pytest

from openai_questions import asking, refused


async def test_the_list_of_models(server, client):
    """OpenAI's client lists the models, with our fields beside OpenAI's, and fetches one."""
    models = {model.id: model async for model in client.models.list()}
    assert set(models) == {"echo", "mute", "fake-vlm", "fake-detect"}
    one = await client.models.retrieve("fake-detect")
    assert one == models["fake-detect"]
    assert (one.object, one.owned_by, one.task, one.state) == ("model", "pip", "detect", "unloaded")
    assert 1.7e9 < one.created < 4e9
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
async def test_a_model_is_removed(server, base):
    """OpenAI's client removes a model, and reads so; who asks in our form is answered in it."""
    async with openai.AsyncOpenAI(base_url=server.url + base, api_key=server.key) as client:
        told = await client.models.delete("mute")
        assert told.to_dict() == {"id": "mute", "object": "model", "deleted": True}
        with pytest.raises(openai.NotFoundError) as lost:
            await client.models.delete("mute")
        assert (lost.value.code, lost.value.param) == ("model_not_found", "model")
    async with aiohttp.ClientSession(server.url, headers=server.headers) as http:
        async with http.delete("/v1/models/echo?format=other") as response:
            assert response.status == 422
        async with http.delete("/v1/models/echo") as response:
            assert await response.json() == {"status": "removed", "model": "echo"}


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
async def test_a_client_of_openai_is_refused_in_its_own_form(server, base):
    """A wrong key is 401 and an unknown model 404 beside our routes too, both with a ``code``."""
    async with openai.AsyncOpenAI(
        base_url=server.url + base, api_key="wrong", max_retries=0
    ) as other:
        for asked in (other.models.list(), other.models.retrieve("echo")):
            with pytest.raises(openai.AuthenticationError) as caught:
                await asked
            assert caught.value.code == "invalid_api_key"
            assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"
    async with openai.AsyncOpenAI(
        base_url=server.url + base, api_key=server.key, max_retries=0
    ) as known:
        with pytest.raises(openai.NotFoundError) as lost:
            await known.models.retrieve("nobody")
    assert (lost.value.code, lost.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/echo"])
async def test_errors_of_the_shared_routes_have_the_form_of_the_answer(server, path):
    """Whoever gets our form gets our errors, with 403 for a key that is not accepted."""
    wrong = {"Authorization": "Bearer sk-wrong"}
    async with aiohttp.ClientSession(server.url) as http:
        for query, headers, told in (
            ("", wrong, (403, ["detail"])),
            ("?format=mata", {**wrong, "X-Stainless-Lang": "js"}, (403, ["detail"])),
            ("?format=openai", wrong, (401, ["error"])),
            ("", {**wrong, "User-Agent": "OpenAI/Python 2.2"}, (401, ["error"])),
            ("", {"X-Stainless-Lang": "js"}, (401, ["error"])),
            ("?format=xml", wrong, (403, ["detail"])),
        ):
            async with http.get(path + query, headers=headers) as response:
                assert (response.status, list(await response.json())) == told, (query, headers)


async def test_the_forms_of_the_list(server):
    """Our form unless OpenAI's is asked for or its client asks; ``/openai/v1`` has one form."""
    async with aiohttp.ClientSession(server.url, headers=server.headers) as http:
        for path, headers, kind in (
            ("/v1/models", {}, list),
            ("/v1/models", {"User-Agent": "OpenAI/NET 2.2"}, dict),
            ("/v1/models", {"X-Stainless-Lang": "js"}, dict),
            ("/v1/models?format=openai", {}, dict),
            ("/v1/models?format=mata", {"X-Stainless-Lang": "js"}, list),
            ("/openai/v1/models", {}, dict),
        ):
            async with http.get(path, headers=headers) as response:
                assert response.status == 200, path
                assert isinstance(await response.json(), kind), (path, headers)
        for query in ("format=xml", "format=mata&limit=1"):
            async with http.get(f"/v1/models?{query}") as response:
                assert response.status == 422, query
        async with http.get("/openai/v1/models/echo") as response:
            assert (await response.json())["id"] == "echo"


async def test_the_base_url_of_openai_alone(server):
    """Everything a chat program needs is below ``/openai/v1`` too."""
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/openai/v1", api_key=server.key, max_retries=0
    ) as client:
        assert "echo" in [model.id async for model in client.models.list()]
        answer = await client.chat.completions.create(model="echo", messages=asking("hm"))
        assert answer.choices[0].message.content == "hm"
        assert (await refused(client, n=3)).param == "n"


async def test_head_has_the_form_of_get(server):
    """The headers of a list are those of the form that is asked for."""
    async with aiohttp.ClientSession(server.url, headers=server.headers) as http:
        for form in ("mata", "openai"):
            path = f"/v1/models?format={form}"
            async with http.get(path) as got, http.head(path) as told:
                assert (told.status, told.headers["Content-Length"]) == (
                    200,
                    str(len(await got.read())),
                )


async def test_both_forms_are_documented(server):
    """The server's own route tells of OpenAI's form: the parameter, the answer and its error."""
    async with (
        aiohttp.ClientSession(server.url) as http,
        http.get("/openapi.json") as response,
    ):
        document = await response.json()
    for path, name, kind in (
        ("/v1/models", "format", "OpenAIModels"),
        ("/v1/models/{model_id}", "include", "OpenAIModel"),
    ):
        operation = document["paths"][path]["get"]
        given = [each["name"] for each in operation["parameters"]]
        assert {"format", name} <= set(given)
        assert len(given) == len(set(given))
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert {"$ref": f"#/components/schemas/{kind}"} in schema["anyOf"]
        assert "422" in operation["responses"]
        assert operation["summary"]


async def test_a_form_that_nobody_has_is_refused_for_one_model_too(server):
    """The parameter is checked where it is taken, and nowhere below a base URL of one form."""
    async with aiohttp.ClientSession(server.url, headers=server.headers) as http:
        refused = {"detail": "format: must be mata or openai, and given once"}
        for query in ("format=xml", "format=openai&format=mata", "format=openai&format=openai"):
            async with http.get(f"/v1/models/echo?{query}") as response:
                assert (response.status, await response.json()) == (422, refused)
        async with http.get("/openai/v1/models?format=xml") as response:
            assert response.status == 200
