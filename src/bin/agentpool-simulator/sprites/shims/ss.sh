#!/bin/bash
# ss: port 8080, while a gateway runs.
echo "State  Recv-Q Send-Q Local Address:Port Peer Address:Port Process"
if read -r pid 2>/dev/null <"$SIM_RUN/gateway.pid" && grep -aqsF "SIM_SPRITE=$SIM_SPRITE" "/proc/$pid/environ"; then
  echo "LISTEN 0      511          0.0.0.0:8080      0.0.0.0:*     users:((\"openclaw\",pid=$pid,fd=20))"
fi
