#!/bin/sh
# Starts Synapse once the daemon's container has written its configuration, and the database takes connections. Its
# signing key is made here, and stays here.
set -eu
until [ -s /config/homeserver.yaml ]; do sleep 0.2; done
until python -c "import socket; socket.create_connection(('postgres', 5432), 2)" 2>/dev/null; do sleep 0.5; done
python -m synapse.app.homeserver --config-path /config/homeserver.yaml --generate-keys
exec python -m synapse.app.homeserver --config-path /config/homeserver.yaml
