#!/bin/sh
# The first program of the machine: finds the disk and hands over to its systemd.
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
cd /m || exit 1
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    [ ! -f "$module.ko" ] || insmod "$module.ko"
done
tries=0
while [ ! -b /dev/vda ] && [ "$tries" -lt 300 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
mount -t ext4 /dev/vda /new
exec switch_root /new /sbin/init
