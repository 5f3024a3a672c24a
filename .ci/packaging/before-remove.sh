#!/bin/sh
# Before the removal, not before an upgrade: removes the service. Configuration,
# secrets and invoices stay, for the invoices are the company's books.
set -e
[ -z "$DPKG_ROOT" ] || exit 0
case "$1" in
remove | 0) ;; # dpkg, rpm
*) exit 0 ;;
esac
if [ -e /etc/systemd/system/ksefmirror.service ] && [ -d /run/systemd/system ]; then
	ksefmirror service uninstall || true
fi
