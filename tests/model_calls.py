"""Calls of the models' routes, as several tests make them."""

from __future__ import annotations

from api_answers import problem
from conftest import picture

PNG = picture()


async def info(http, model="fake-detect"):
    """Return one model."""
    async with http.get(f"/v1/models/{model}") as response:
        assert response.status == 200
        return await response.json()


async def post(http, path, model="fake-detect"):
    """POST a model's name; return status and decoded body."""
    async with http.post(f"/v1/models/{path}", json={"model": model}) as response:
        return response.status, await response.json()


async def removed(http, model="fake-detect", status=200):
    """DELETE a model; return the decoded body, or the detail of the refusal that was expected."""
    async with http.delete(f"/v1/models/{model}") as response:
        if status != 200:
            return await problem(response, status)
        assert response.status == 200, await response.text()
        return await response.json()
