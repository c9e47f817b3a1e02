# SPDX-License-Identifier: Apache-2.0
# Generates what runs, and no types: stubs.sh <python> <folder>
set -eu
python=$1
out=$2
mkdir -p "$out"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
find protos -name '*.proto' -exec "$python" -m grpc_tools.protoc \
    --proto_path=protos --proto_path="$site" --python_out="$out" --grpc_python_out="$out" {} +
