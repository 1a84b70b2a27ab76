"""Certificates and keys for tests of TLS, made by certtool; a directory for each end, as -object tls-creds-* wants them."""
import os
import shutil
import subprocess


def _certtool(*argv):
    subprocess.run(["certtool", *argv], check=True, capture_output=True)


def _template(path, **lines):
    with open(path, "w") as f:
        for key, value in lines.items():
            f.write(key if value is True else f"{key} = {value}")
            f.write("\n")


def available():
    return shutil.which("certtool") is not None


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, directory, name="Test CA"):
        self.directory = directory
        os.mkdir(directory)
        self.key, self.cert = (os.path.join(directory, x) for x in ("ca-key.pem", "ca-cert.pem"))
        template = os.path.join(directory, "ca.info")
        _certtool("--generate-privkey", "--ecc", "--outfile", self.key)
        _template(template, cn=f'"{name}"', ca=True, cert_signing_key=True, expiration_days=10)
        _certtool("--generate-self-signed", "--load-privkey", self.key, "--template", template, "--outfile", self.cert)

    def issue(self, directory, end, name, password=None, **extra):
        """Makes `directory` with a certificate for the server or the client of that name."""
        os.makedirs(directory, exist_ok=True)
        shutil.copy(self.cert, os.path.join(directory, "ca-cert.pem"))
        key, cert, template = (os.path.join(directory, f"{end}-{x}") for x in ("key.pem", "cert.pem", "cert.info"))
        lines = {"cn": f'"{name}"', "organization": '"Test"', f"tls_www_{end}": True, "signing_key": True,
                 "encryption_key": True, "expiration_days": 10}
        if end == "server":
            lines["dns_name"] = f'"{name}"'
            lines["ip_address"] = '"127.0.0.1"'
        lines.update(extra)
        _template(template, **{k: v for k, v in lines.items() if v is not None})
        _certtool("--generate-privkey", "--ecc", "--outfile", key)
        _certtool("--generate-certificate", "--load-privkey", key, "--load-ca-privkey", self.key, "--load-ca-certificate",
                  self.cert, "--template", template, "--outfile", cert)
        if password:
            plain = key + ".plain"
            os.rename(key, plain)
            _certtool("--to-p8", "--load-privkey", plain, "--password", password, "--outfile", key)
            os.unlink(plain)
