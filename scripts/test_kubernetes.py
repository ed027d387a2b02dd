#!/usr/bin/env python3
"""Checks scripts/kubernetes: the manifests against Kubernetes' published schemas and the API server's rules that no
schema has, the Dockerfile with a linter, and the containers' commands by running them as a node would, on the sample
set, with the built binaries.

What it does not check: that a cluster runs the jobs, that the images build, and the buckets of settings-s3.yaml.

Needs target/release/extractor and head-trainer (make build), ONNX Runtime (make runtime) and tini. The environment is
that of manifests.py. Where its packages cannot be installed, or tini is missing, the tests that need them are skipped
with the reason.
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

from manifests import api_faults, containers, dockerfile, documents, expand, hadolint, one, pod, restricted_faults
from manifests import schema_faults
from test_read_store import ROOT, SCRIPTS, run

HERE = SCRIPTS / "kubernetes"
DOCKERFILE = HERE / "Dockerfile"
RELEASE = ROOT / "target" / "release"
# From the first version in which backoffLimitPerIndex is stable to the newest that the validator knows.
VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]
JOBS = ["index-job.yaml", "features-job.yaml", "features-job-cuda.yaml", "train-head-job.yaml"]
SETTINGS = ["settings.yaml", "settings-s3.yaml"]


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = documents(HERE / name for name in JOBS + SETTINGS)
        cls.jobs = {name: cls.files[name][0] for name in JOBS}
        cls.stages = dockerfile(DOCKERFILE.read_text())


class Manifests(Case):
    def test_every_file_is_looked_at(self):
        self.assertEqual(sorted(path.name for path in HERE.glob("*.y*ml")), sorted(JOBS + SETTINGS))

    def test_the_published_schemas_take_them(self):
        every = [document for found in self.files.values() for document in found]
        for version in VERSIONS:
            self.assertEqual(schema_faults(every, version), [None] * len(every), version)

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
            [container] = pod(self.jobs[name])["containers"]
            [shards] = [v["value"] for v in container["env"] if v["name"] == "HEADSTART_SHARDS"]
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
    def test_the_linter_has_nothing_against_the_dockerfile(self):
        result = hadolint(DOCKERFILE)
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / "Dockerfile"
            breaks = [("--from=", "--frm="), ("12-slim", "latest"), ("RUN install", "RUN sudo install")]
            for old, new in breaks:
                text = DOCKERFILE.read_text()
                self.assertIn(old, text)
                broken.write_text(text.replace(old, new))
                self.assertEqual(hadolint(broken).returncode, 1, new)

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
                    (folder / name).parent.mkdir(exist_ok=True)
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
        data, extractor = self.folder / "data", RELEASE / "extractor"
        images, model = data / "images", data / "backbones" / "resnet50.onnx"
        run(extractor, "sample", images, "--per-class", "20", "--json")
        run(extractor, "backbone", "seed", "--size", "64", "--out", model, "--json")
        [settings] = [d["data"] for d in self.files["settings.yaml"] if d["kind"] == "ConfigMap"]
        settings = {name: re.sub("^/data", str(data), value) for name, value in settings.items()}
        # The image has ONNX Runtime at a place of its own, and so has this.
        found = os.environ.get("ORT_DYLIB_PATH") or run(extractor, "runtime", "fetch", "--json")["library"]
        settings["ORT_DYLIB_PATH"] = str(found)

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
        # The rows are as many as one process makes of all images.
        single = ["--store", self.folder / "single", "--index", self.folder / "single.arrow", "--shard", "0/1"]
        run(extractor, "features", images, "--backbone", model, *single, "--json")
        stores = [data / "features", self.folder / "single"]
        self.assertEqual(*[run(extractor, "store", "inspect", store, "--json")["rows"] for store in stores])


if __name__ == "__main__":
    unittest.main()
