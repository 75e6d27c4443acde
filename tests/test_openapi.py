"""The description of the REST interface (wsserver/web/openapi.json) says what the server does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.test_api import ApiCase
from wsserver.api import Api
from wsserver.pages import WEB

SPEC: dict[str, Any] = json.loads((WEB / "openapi.json").read_text("utf-8"))


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference."""
    found: Any = SPEC
    if "$ref" not in node:
        return node
    for step in node["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every path, method and operation."""
    for path, methods in SPEC["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def difference(schema: dict[str, Any], value: Any, where: str = "$") -> list[str]:
    """Where an answer has keys that are not described, or lacks some that are."""
    schema = resolved(schema)
    if isinstance(value, list):
        items = schema.get("items", {})
        return [d for i, one in enumerate(value) for d in difference(items, one, f"{where}[{i}]")]
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    found = [f"{where}.{key}" for key in schema["properties"].keys() ^ value.keys()]
    for key in schema["properties"].keys() & value.keys():
        found += difference(schema["properties"][key], value[key], f"{where}.{key}")
    return found


class DescriptionTests(ApiCase):
    def test_routes(self) -> None:
        """Every route is described, with its methods and parameters, and no other."""
        routes = {
            (re.sub("<path:.*>", "{}", f"/v1{rule.rule}"), method.lower())
            for rule in Api.app.url_map.iter_rules()
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }
        described = {(re.sub("{.*}", "{}", path), method) for path, method, _ in operations()}
        self.assertEqual(described, routes)
        for path, _, operation in operations():
            names = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
            self.assertEqual(re.findall("{(.*?)}", path), names)

    def test_failures(self) -> None:
        """Every call says how it may be refused; each refusal is the same kind of JSON."""
        for path, _, operation in operations():
            usual = {"200", "400", "401", "403", "405", "413", "421", "429", "503"}
            more = {"404"} if "{" in path else set()
            self.assertEqual(operation["responses"].keys(), usual | more)
        self.assertEqual(len({o["operationId"] for _, _, o in operations()}), 9)

    async def assert_described(self, path: str, template: str, code: int = 200) -> Any:
        reply = await self.get(path)
        self.assertEqual(reply.code, code)
        answer = resolved(SPEC["paths"][template]["get"]["responses"][str(code)])
        schema = answer["content"][reply.headers["Content-Type"].partition(";")[0]]["schema"]
        body = reply.json
        self.assertEqual(difference(schema, body), [], "describe it in openapi.json")
        return body

    async def test_answers(self) -> None:
        """Answers hold what is described, neither less nor more."""
        reserve, release = "/v1/reserve/{service}", "/v1/release/{token}"
        made = await self.assert_described("/v1/reserve/Demo%20one", reserve)
        self.assertTrue(await self.assert_described("/v1/services", "/v1/services"))
        status = await self.assert_described("/v1/status", "/v1/status")
        self.assertEqual(len(status[0]["instances"]), 1)
        await self.assert_described(f"/v1/release/{made['token']}", release)
        await self.assert_described("/v1/release/x", release, 404)
        await self.assert_described("/v1/reserve/x", reserve, 404)
        await self.assert_described("/v1/reserve/Picky?size=wrong", reserve, 400)
        await self.assert_described("/v1/reserve/Members", reserve, 403)
        await self.assert_described("/v1/reserve/Broken", reserve, 503)

    async def test_served(self) -> None:
        """The server hands its description out."""
        reply = await self.get("/wsserver/openapi.json")
        self.assertEqual((reply.code, reply.headers["Content-Type"]), (200, "application/json"))
        self.assertEqual(reply.json, SPEC)
