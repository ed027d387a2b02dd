"""A real S3 server (moto) on loopback, for tests, in the environment of requirements-remote.txt.

It must not know what is stored.
"""

import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from test_read_store import ROOT, SCRIPTS, make_environment

VENV = Path(os.environ.get("HEADSTART_REMOTE_VENV", ROOT / ".venv" / "remote"))
REQUIREMENTS = SCRIPTS / "requirements-remote.txt"
PYTHON = VENV / "bin" / "python"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}

UPLOAD = """
import os, sys, boto3
from pathlib import Path
url, bucket, prefix, folder = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret")
s3.create_bucket(Bucket=bucket)
for old in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
    s3.delete_object(Bucket=bucket, Key=old["Key"])
for path in Path(folder).rglob("*"):
    if path.is_file():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
"""


class Server:
    """Runs until it is stopped."""

    def __init__(self):
        make_environment(VENV, REQUIREMENTS)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        command = [PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true"}
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/").read(1)
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("moto does not start")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def fill(self, bucket, prefix, folder):
        """Makes a bucket that holds a folder's files and nothing else."""
        subprocess.run([PYTHON, "-c", UPLOAD, self.url, bucket, prefix, str(folder)], check=True)
