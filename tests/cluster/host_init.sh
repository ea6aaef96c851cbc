#!/bin/bash
# Runs as process 1 of a host made of namespaces (hosts.py): gives it its own home, /tmp and /dev/shm, a copy-on-write view
# of the virtual environment, and an sshd. What it must see of the real machine is kept aside first.
set -euo pipefail
: "${FOLDER:?}" "${HOME_FOLDER:?}" "${NAME:?}" "${ADDRESS:?}" "${ENVIRONMENT:?}" "${KEPT:=}"
mount --make-rprivate /
hostname "$NAME"
stage=/run/condense-hosts
mkdir -p $stage
mount -t tmpfs stage $stage
mkdir $stage/{environment,own,home}
i=0
for path in $KEPT; do
    i=$((i + 1))
    mkdir $stage/$i
    mount --rbind "$path" $stage/$i
done
mount -t overlay overlay -o "lowerdir=$ENVIRONMENT,upperdir=$FOLDER/upper,workdir=$FOLDER/work" $stage/environment
mount --bind "$FOLDER" $stage/own
mount --bind "$HOME_FOLDER" $stage/home
mount --bind $stage/own/tmp /tmp
mount --bind $stage/home /root
mount -t tmpfs -o size=2g,mode=1777 shm /dev/shm
mkdir -p /root/condense-env "$ENVIRONMENT" /run/sshd
mount --bind $stage/environment /root/condense-env
mount --bind $stage/environment "$ENVIRONMENT" # scripts in it name it by this path
i=0
for path in $KEPT; do
    i=$((i + 1))
    mkdir -p "$path"
    mount --rbind $stage/$i "$path"
    mount -o remount,ro,bind "$path"
done
if [ -f /root/.ssh/host_key ]; then
    /usr/sbin/sshd -D -e -f /dev/null -o ListenAddress="$ADDRESS" -o HostKey=/root/.ssh/host_key -o UsePAM=no \
        -o StrictModes=no -o PidFile=none -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no \
        -o KbdInteractiveAuthentication=no -o MaxStartups=100 -o MaxSessions=100 -o UseDNS=no -o PrintMotd=no \
        >/root/sshd.log 2>&1 &
fi
touch $stage/own/ready
while :; do sleep 3600 & wait $! || true; done # bash as process 1 also reaps orphans
