#!/bin/sh
# The first program of the machine: the network, the disk, and over to its systemd.
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
cd /m || exit 1
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net; do
    [ ! -f "$module.ko" ] || insmod "$module.ko"
done
tries=0
while [ ! -b /dev/vda ] && [ "$tries" -lt 300 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
mount -t ext4 /dev/vda /new
exec switch_root /new /sbin/init
