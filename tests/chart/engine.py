"""Helm's own engines and the published schemas, for the tests of the chart and for `cargo xtask chart`.

Reads a list of requests as JSON on standard input and writes as many answers. A request is one rendering: `helm` (3 or
4), `name`, `namespace`, `values` (an object) or `file` (their file), optionally `kube` (a Kubernetes version, Helm 3
only) and `schemas` (versions to check against). Its answer has `text`, `documents`, `notes` and `misfits`, or `error`. The
request `defaults` is answered with the chart's values. Nothing here talks to a cluster, nor to a network.
"""

import json
import os
import re
import subprocess
import sys

import helm_python
import jsonschema
import kubernetes_validate
import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
CHART = os.path.join(HERE, "..", "..", "chart")
HELM3 = os.path.join(sys.prefix, "helm3")


def main():
    json.dump([answer(request) for request in json.load(sys.stdin)], sys.stdout)


def answer(request):
    if request.get("defaults"):
        with open(os.path.join(CHART, "values.yaml"), encoding="utf-8") as file:
            return {"defaults": yaml.safe_load(file)}
    values = request.get("values", {})
    if "file" in request:
        with open(os.path.join(HERE, request["file"]), encoding="utf-8") as file:
            values = yaml.safe_load(file) or {}
    try:
        text, notes = (with_helm3 if request["helm"] == 3 else with_helm4)(request, values)
    except (helm_python.HelmError, subprocess.CalledProcessError) as error:
        return {"error": error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)}
    documents = [document for document in yaml.load_all(text, Loader=Strict) if document]
    strange = [line for version in request.get("schemas", []) for line in misfits(documents, version)]
    return {"text": text, "documents": documents, "notes": notes, "misfits": strange}


def with_helm4(request, values):
    problems = helm_python.lint(CHART, values=values, namespace=request["namespace"], strict=True)
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=request["name"], namespace=request["namespace"])
    if problems["errors"]:
        raise helm_python.HelmRenderError(f"lint: {problems['errors']}")
    notes = [text for path, text in rendered.items() if path.endswith("/NOTES.txt")]
    # A file's documents in the order in which they were written, the files by name.
    files = [text for path, text in sorted(rendered.items()) if not path.endswith("/NOTES.txt")]
    return tidy("\n---\n".join(files)), notes[0]


def with_helm3(request, values):
    command = [HELM3, "template", request["name"], CHART, "--namespace", request["namespace"], "--values", "-"]
    command += ["--kube-version", request["kube"]] if "kube" in request else []
    environment = {"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, input=yaml.safe_dump(values), env=environment, text=True, check=True, capture_output=True
    )
    return tidy(done.stdout), None


def tidy(text):
    """Documents without the lines by which the engines differ, by kind and name."""
    text = re.sub(r"^# Source: .*\n", "", text, flags=re.MULTILINE)
    documents = [part.strip("\n") for part in re.split(r"^---[ \t]*$", text, flags=re.MULTILINE)]
    documents = [re.sub(r"[ \t]+$", "", part, flags=re.MULTILINE) for part in documents if part.strip()]
    return "".join(f"---\n{part}\n" for part in sorted(documents, key=place))


def place(document):
    head = yaml.load(document, Loader=Strict)
    return (head["kind"], head["metadata"].get("namespace", ""), head["metadata"]["name"])


class Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Refuses a key that stands twice, which YAML forbids and PyYAML takes."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f"{twice} stands twice, {node.start_mark}")
        return super().construct_mapping(node, deep)


def misfits(documents, version):
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']} of {version}"
        own = os.path.join(HERE, "schemas", f"{document['kind'].lower()}.json")
        try:
            if os.path.exists(own):
                with open(own, encoding="utf-8") as file:
                    jsonschema.Draft7Validator(json.load(file)).validate(document)
            else:
                kubernetes_validate.validate(document, version, strict=True)
        except jsonschema.ValidationError as error:
            yield f"{name}: {'/'.join(map(str, error.absolute_path))}: {error.message}"


if __name__ == "__main__":
    main()
