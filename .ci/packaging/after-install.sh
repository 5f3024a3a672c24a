#!/bin/sh
# After an upgrade: renews the unit if it is for the usual configuration, and has
# a running service run the new program.
set -e
[ -z "$DPKG_ROOT" ] || exit 0
unit=/etc/systemd/system/ksefmirror.service
if [ -e "$unit" ] && [ -d /run/systemd/system ]; then
	if grep -q -- ' --config /etc/ksefmirror/config.toml run$' "$unit"; then
		# A configuration that is not in order is no reason for the upgrade to fail.
		ksefmirror --config /etc/ksefmirror/config.toml service install || true
	fi
	systemctl try-restart ksefmirror.service || true
elif [ ! -e /etc/ksefmirror/config.toml ]; then
	echo "ksefmirror: next: ksefmirror config init --service, then: ksefmirror service install, then: ksefmirror service start"
fi
