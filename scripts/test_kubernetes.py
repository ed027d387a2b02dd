#!/usr/bin/env python3
"""Checks scripts/kubernetes: the manifests against Kubernetes' published schemas and the API server's rules that no
schema has, the Dockerfile with a linter, and the containers' commands by running them as a node would, on the sample
set, with the built binaries.

What it does not check: that a cluster runs the jobs, that the images build, and the buckets of settings-s3.yaml.

Needs target/release/extractor and head-trainer (make build), ONNX Runtime (make runtime) and tini. The first run makes
.venv/kubernetes; `HEADSTART_KUBERNETES_VENV` names another folder. Where its packages cannot be installed, or tini
is missing, the tests that need them are skipped with the reason.
"""

import copy
import fnmatch
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from test_read_store import ROOT, SCRIPTS, make_environment, run

HERE = SCRIPTS / "kubernetes"
DOCKERFILE = HERE / "Dockerfile"
VENV = Path(os.environ.get("HEADSTART_KUBERNETES_VENV", ROOT / ".venv" / "kubernetes"))
RELEASE = ROOT / "target" / "release"
# The first version in which backoffLimitPerIndex is stable, and the newest that the validator knows.
VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]
JOBS = ["index-job.yaml", "features-job.yaml", "features-job-cuda.yaml", "train-head-job.yaml"]
SETTINGS = ["settings.yaml", "settings-s3.yaml"]

# Runs in the environment: the documents of YAML files, a key that stands twice refused: {file: [document, ...]}.
READ = """
import json, sys
from pathlib import Path
import yaml
class Loader(yaml.SafeLoader):
    pass
def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice: {node.start_mark}"
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value)}
Loader.add_constructor("tag:yaml.org,2002:map", mapping)
print(json.dumps({Path(f).name: list(yaml.load_all(Path(f).read_text(), Loader)) for f in sys.argv[1:]}))
"""

# Runs in the environment: what is wrong with each of the documents on stdin, or null.
VALIDATE = """
import json, sys
import kubernetes_validate
def wrong(document):
    try:
        used = kubernetes_validate.validate(document, sys.argv[1], strict=True)
        assert used == sys.argv[1], used
    except kubernetes_validate.ValidationError as error:
        return error.message
print(json.dumps([wrong(document) for document in json.load(sys.stdin)]))
"""


def environment():
    try:
        make_environment(VENV, SCRIPTS / "requirements-kubernetes.txt")
    except subprocess.CalledProcessError as error:
        raise unittest.SkipTest(f"{SCRIPTS / 'requirements-kubernetes.txt'} cannot be installed: {error}") from error
    return VENV / "bin" / "python"


def schema_faults(documents, version):
    """What the schema of that version has against each document; null where nothing."""
    command = [environment(), "-c", VALIDATE, version]
    result = subprocess.run(command, input=json.dumps(documents), capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def pod(job):
    return job["spec"]["template"]["spec"]


def containers(job):
    return pod(job).get("initContainers", []) + pod(job)["containers"]


def api_faults(job):
    """What the API server refuses in a Job though the schema has nothing against it."""
    spec, faults = job["spec"], []
    indexed = spec.get("completionMode") == "Indexed"
    names = [container["name"] for container in containers(job)]
    if "backoffLimitPerIndex" in spec and not indexed:
        faults.append("backoffLimitPerIndex without completionMode Indexed")
    if pod(job).get("restartPolicy") != "Never":
        faults.append("podFailurePolicy without restartPolicy Never")
    for rule in spec["podFailurePolicy"]["rules"]:
        if rule["action"] not in ["Ignore", "Count", "FailJob", "FailIndex"]:
            faults.append(f"no action {rule['action']}")
        if rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in spec:
            faults.append("FailIndex without backoffLimitPerIndex")
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            faults.append("a rule has one of onExitCodes and onPodConditions")
        codes = rule.get("onExitCodes")
        if codes:
            if codes["operator"] not in ["In", "NotIn"] or codes["operator"] == "In" and 0 in codes["values"]:
                faults.append("operator In without 0, or NotIn")
            if codes["values"] != sorted(set(codes["values"])):
                faults.append("exit codes are not in order")
            if codes.get("containerName", names[0]) not in names:
                faults.append(f"no container {codes['containerName']}")
    volumes = {volume["name"] for volume in pod(job)["volumes"]}
    for container in containers(job):
        faults += [f"no volume {m['name']}" for m in container["volumeMounts"] if m["name"] not in volumes]
        resources = container["resources"]
        for name, limit in resources["limits"].items():
            if quantity(resources["requests"].get(name, limit)) > quantity(limit):
                faults.append(f"{container['name']} requests more {name} than its limit")
    return faults


def quantity(text):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|)", text).groups()
    return int(number) * {"": 1, "Mi": 1 << 20, "Gi": 1 << 30}[unit]


def restricted_faults(job):
    """What Kubernetes' Pod Security Standard `restricted` and a careful reader have against a Job's pods."""
    spec, faults = pod(job), []
    expected = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    faults += [f"{key} is not {value}" for key, value in expected.items() if spec["securityContext"].get(key) != value]
    if spec.get("automountServiceAccountToken") is not False:
        faults.append("a service account's token is mounted")
    faults += [f"volume {v['name']}" for v in spec["volumes"] if not set(v) & {"persistentVolumeClaim", "emptyDir"}]
    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    faults += [f"{c['name']}: securityContext" for c in containers(job) if c["securityContext"] != context]
    return faults


def expand(text, environment):
    """As a node does: $(NAME) for a variable that there is."""
    return re.sub(r"\$\((\w+)\)", lambda match: environment.get(match[1], match[0]), text)


def dockerfile(text):
    """The stages: {name: [(instruction, rest), ...]}, continued lines joined."""
    stages, name = {}, None
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            name = rest.split(" AS ")[1]
            stages[name] = []
        stages[name].append((instruction, rest))
    return stages


def one(stage, instruction):
    """The rest of the only such instruction of a stage."""
    [rest] = [rest for found, rest in stage if found == instruction]
    return rest


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        files = [HERE / name for name in JOBS + SETTINGS]
        cls.files = run(environment(), "-c", READ, *files)
        cls.jobs = {name: cls.files[name][0] for name in JOBS}
        cls.stages = dockerfile(DOCKERFILE.read_text())


class Manifests(Case):
    def test_every_file_is_looked_at(self):
        self.assertEqual(sorted(path.name for path in HERE.glob("*.y*ml")), sorted(JOBS + SETTINGS))

    def test_the_published_schemas_take_them(self):
        documents = [document for documents in self.files.values() for document in documents]
        for version in VERSIONS:
            self.assertEqual(schema_faults(documents, version), [None] * len(documents), version)

    def test_the_schema_refuses_a_broken_one(self):
        breaks = [
            lambda job: job["spec"].update(completion=8),
            lambda job: job["spec"].update(completions="eight"),
            lambda job: job["spec"].pop("template"),
            lambda job: pod(job)["containers"][0].update(arguments=["--help"]),
            lambda job: job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"].pop("operator"),
        ]
        broken = [copy.deepcopy(self.jobs["features-job.yaml"]) for _ in breaks]
        for document, spoil in zip(broken, breaks):
            spoil(document)
        for version in VERSIONS:
            self.assertNotIn(None, schema_faults(broken, version), version)

    def test_the_api_servers_own_rules(self):
        for name, job in self.jobs.items():
            self.assertEqual(api_faults(job), [], name)
        breaks = [
            lambda job: job["spec"].pop("backoffLimitPerIndex"),
            lambda job: job["spec"].pop("completionMode"),
            lambda job: pod(job).update(restartPolicy="OnFailure"),
            lambda job: job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"].update(values=[137, 75]),
            lambda job: job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"].update(containerName="other"),
            lambda job: pod(job)["volumes"].pop(),
            lambda job: pod(job)["containers"][0]["resources"]["limits"].update(memory="1Gi"),
        ]
        for number, spoil in enumerate(breaks):
            broken = copy.deepcopy(self.jobs["features-job.yaml"])
            spoil(broken)
            self.assertEqual(len(api_faults(broken)), 1, number)

    def test_pods_are_restricted(self):
        for name, job in self.jobs.items():
            self.assertEqual(restricted_faults(job), [], name)
        for key in ["securityContext", "automountServiceAccountToken"]:
            broken = copy.deepcopy(self.jobs["index-job.yaml"])
            pod(broken)[key] = {}
            self.assertNotEqual(restricted_faults(broken), [], key)

    def test_the_number_of_parts_is_one_number(self):
        for name in ["features-job.yaml", "features-job-cuda.yaml"]:
            spec = self.jobs[name]["spec"]
            [shards] = [v["value"] for v in pod(self.jobs[name])["containers"][0]["env"] if v["name"] == "HEADSTART_SHARDS"]
            self.assertEqual({spec["completions"], spec["parallelism"], int(shards)}, {spec["completions"]}, name)

    def test_what_is_tried_again(self):
        for name, container in [
            ("index-job.yaml", "index"), ("features-job.yaml", "features"), ("train-head-job.yaml", "train-head"),
        ]:
            rules = self.jobs[name]["spec"]["podFailurePolicy"]["rules"]
            self.assertEqual(rules[0]["onPodConditions"], [{"type": "DisruptionTarget", "status": "True"}])
            [final] = [r["onExitCodes"] for r in rules[1:] if r["onExitCodes"]["containerName"] == container]
            self.assertEqual(final["operator"], "NotIn")
            self.assertLessEqual({75, 143}, set(final["values"]))
            self.assertFalse({1, 2, 3, 4, 5} & set(final["values"]))

    def test_the_cuda_job_differs_in_what_a_gpu_needs_alone(self):
        job = copy.deepcopy(self.jobs["features-job-cuda.yaml"])
        [container] = pod(job)["containers"]
        self.assertEqual(container["resources"]["limits"].pop("nvidia.com/gpu"), "1")
        self.assertEqual(pod(job).pop("tolerations")[0]["key"], "nvidia.com/gpu")
        container["image"] = container["image"].replace("-cuda", "-cpu")
        container["args"] = ["cpu" if arg == "cuda" else arg for arg in container["args"]]
        self.assertEqual(job, self.jobs["features-job.yaml"])

    def test_variables_claims_and_flags_are_there(self):
        both = [{d["kind"]: d for d in self.files[name]} for name in SETTINGS]
        self.assertEqual(both[0]["ConfigMap"]["data"].keys() - both[1]["ConfigMap"]["data"].keys(), set())
        for settings in both:
            for name, job in self.jobs.items():
                claims = [v["persistentVolumeClaim"]["claimName"] for v in pod(job)["volumes"] if "emptyDir" not in v]
                self.assertEqual(claims, [settings["PersistentVolumeClaim"]["metadata"]["name"]])
                for container in containers(job):
                    self.assertEqual(container["envFrom"][0], {"configMapRef": {"name": "headstart"}})
                    args = [expand(arg, settings["ConfigMap"]["data"]) for arg in container["args"]]
                    self.assertNotIn("$(", " ".join(args))
                    words = args[: 3 if args[1] == "store" else 2]
                    text = subprocess.run(
                        [RELEASE / words[0], *words[1:], "--help"], capture_output=True, text=True, check=True
                    ).stdout
                    for flag in [arg for arg in args if arg.startswith("--")]:
                        self.assertRegex(text, rf"(?m)^ +{flag} <", f"{name}: {' '.join(words)}")


class Image(Case):
    def hadolint(self, path):
        return subprocess.run([VENV / "bin" / "hadolint", path], capture_output=True, text=True)

    def test_the_linter_has_nothing_against_the_dockerfile(self):
        result = self.hadolint(DOCKERFILE)
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / "Dockerfile"
            for old, new in [("--from=build-cpu", "--frm=build-cpu"), ("12-slim", "latest"), ("RUN install", "RUN sudo install")]:
                text = DOCKERFILE.read_text()
                self.assertIn(old, text)
                broken.write_text(text.replace(old, new))
                self.assertEqual(self.hadolint(broken).returncode, 1, new)

    def test_tags_are_the_dockerfiles_targets(self):
        version = re.search(r'(?m)^version = "(.+)"$', (ROOT / "Cargo.toml").read_text())[1]
        text = DOCKERFILE.read_text()
        for name, job in self.jobs.items():
            for container in containers(job):
                registry, tag = container["image"].rsplit(":", 1)
                target = tag.removeprefix(f"{version}-")
                self.assertEqual(registry, "registry.example.com/headstart")
                self.assertEqual(target, "cuda" if "cuda" in name else "cpu")
                self.assertIn(target, self.stages)
                self.assertIn(f"--target {target} -t REGISTRY/headstart:{tag} .", text)

    def test_both_images_are_what_the_pods_expect(self):
        cpu, cuda = self.stages["cpu"], self.stages["cuda"]
        self.assertEqual([s for s in cpu if s[0] not in ["FROM", "ENV"]], [
            (i, r.replace("build-cuda", "build-cpu")) for i, r in cuda if i not in ["FROM", "ENV"]
        ])
        self.assertTrue(one(cuda, "ENV").startswith(one(cpu, "ENV")))
        for job in self.jobs.values():
            context = pod(job)["securityContext"]
            self.assertEqual(one(cpu, "USER"), f"{context['runAsUser']}:{context['runAsGroup']}")
            for container in containers(job):
                self.assertNotIn("command", container)
                self.assertIn(one(cpu, "WORKDIR"), [mount["mountPath"] for mount in container["volumeMounts"]])

    def test_the_build_has_every_file_that_it_needs(self):
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        self.assertEqual(rules[0], "*")
        taken = [rule[1:] for rule in rules if rule.startswith("!")]
        left = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]

        def ignore(folder, names):
            paths = [str((Path(folder) / name).relative_to(ROOT)) for name in names]
            return [Path(p).name for p in paths for rule in left if fnmatch.fnmatch(p, rule) or p.endswith(f"/{rule}")]

        copied = {
            source for i, rest in self.stages["build"] if i == "COPY" for source in rest.split()[:-1]
        }
        self.assertEqual(copied, set(taken))
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for name in taken:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, folder / name, ignore=ignore)
                else:
                    shutil.copy(ROOT / name, folder / name)
            self.assertFalse((folder / "extractor" / "fuzz").exists())
            self.assertFalse((folder / "extractor" / "tests" / "data").exists())
            # Cargo refuses a manifest that names a file which is not there.
            cargo = [os.environ.get("CARGO", "cargo"), "metadata", "--no-deps", "--offline", "--locked"]
            command = [*cargo, "--format-version", "1"]
            metadata = json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
            binaries = {t["name"] for p in metadata["packages"] for t in p["targets"] if t["kind"] == ["bin"]}
            self.assertEqual(binaries, {"extractor", "head-trainer"})
            for source in folder.glob("*/src/**/*.rs"):
                for name in re.findall(r'include_(?:str|bytes)!\("(.+?)"\)', source.read_text()):
                    if source.name != "tests.rs":
                        self.assertTrue((source.parent / name).is_file(), f"{source}: {name}")


class Commands(Case):
    """The containers' commands, run under the image's entrypoint as a node runs them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tini = shutil.which("tini")
        if tini is None:
            raise unittest.SkipTest("tini is not installed (hint: on Debian and Ubuntu `apt install tini`)")
        path, *flags = json.loads(one(cls.stages["cpu"], "ENTRYPOINT"))
        assert Path(path).name == "tini", path
        # A container's first process reaps by itself; here it has to be told.
        cls.entrypoint = [tini, "-s", *flags]
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)

    def start(self, container, settings, binaries, **more):
        """The process of a container, its volumes below the test's folder."""
        fixed = {v["name"]: v["value"] for v in container.get("env", [])}
        environment = {**settings, **fixed, **more}
        args = [expand(arg, environment) for arg in container["args"]]
        environment = {**os.environ, **environment, "PATH": f"{binaries}:{os.environ['PATH']}"}
        command = [*self.entrypoint, *args]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def code(self, *args, **more):
        process = self.start(*args, **more)
        output, errors = process.communicate()
        return process.returncode, output + errors

    def stubs(self, body):
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for name in ["extractor", "head-trainer"]:
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        return folder

    def test_skipped_images_are_success_and_other_codes_stay(self):
        for status, expected in [(0, 0), (3, 0), (75, 75), (1, 1), (2, 2), (4, 4), (5, 5)]:
            stubs = self.stubs(f"exit {status}")
            for job in self.jobs.values():
                for container in containers(job):
                    self.assertEqual(self.code(container, {}, stubs)[0], expected, container["name"])

    def test_a_stop_reaches_the_program_and_its_end_is_waited_for(self):
        stubs = self.stubs("trap 'echo published; exit 143' TERM\necho ready\nwhile :; do sleep 0.05; done")
        for job in self.jobs.values():
            for container in containers(job):
                process = self.start(container, {}, stubs)
                self.assertEqual(process.stdout.readline(), "ready\n")
                process.terminate()
                output, _ = process.communicate()
                self.assertEqual((process.returncode, output), (143, "published\n"), container["name"])

    def test_the_jobs_on_the_sample_set(self):
        data = self.folder / "data"
        run(RELEASE / "extractor", "sample", data / "images", "--per-class", "20", "--json")
        run(RELEASE / "extractor", "backbone", "seed", "--size", "64", "--out", data / "backbones/resnet50.onnx", "--json")
        [settings] = [d["data"] for d in self.files["settings.yaml"] if d["kind"] == "ConfigMap"]
        settings = {name: re.sub("^/data", str(data), value) for name, value in settings.items()}
        library = os.environ.get("ORT_DYLIB_PATH") or run(
            RELEASE / "extractor", "runtime", "fetch", "--data-dir", ROOT / "data", "--json"
        )["library"]
        settings["ORT_DYLIB_PATH"] = str(library)

        def job(name, number=0, **more):
            return self.code(containers(self.jobs[name])[number], settings, RELEASE, **more)

        features = self.jobs["features-job.yaml"]["spec"]["completions"]
        self.assertEqual(job("index-job.yaml")[0], 0)
        self.assertNotIn(job("train-head-job.yaml")[0], [0, 2])
        for index in range(features - 1):
            self.assertEqual(job("features-job.yaml", JOB_COMPLETION_INDEX=str(index))[0], 0)
        self.assertEqual(job("train-head-job.yaml")[0], 4)
        self.assertEqual(job("features-job.yaml", JOB_COMPLETION_INDEX=str(features - 1))[0], 0)
        self.assertEqual(job("features-job.yaml", JOB_COMPLETION_INDEX="0")[0], 0)
        status, output = job("train-head-job.yaml")
        self.assertEqual(status, 0, output)
        status, output = job("train-head-job.yaml", number=1)
        self.assertEqual(status, 0, output)
        [record] = (data / "runs").glob("*/run.json")
        self.assertEqual(sorted(path.name for path in (data / "indexes").glob("*.part-*")), [])
        # The rows are those of one process, each once.
        alone = ["features", data / "images", "--backbone", data / "backbones/resnet50.onnx", "--data-dir", ROOT / "data"]
        single = ["--store", self.folder / "single", "--index", self.folder / "single.arrow", "--shard", "0/1", "--json"]
        run(RELEASE / "extractor", *alone, *single)
        stores = [run(RELEASE / "extractor", "store", "inspect", s, "--json") for s in [data / "features", self.folder / "single"]]
        self.assertEqual(*[store["rows"] for store in stores])


if __name__ == "__main__":
    unittest.main()
