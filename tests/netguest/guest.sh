#!/bin/sh
# The first process of the guest. The kernel sets an environment variable for each NAME=VALUE of its command line:
#   role=idle|server|client   what to do after the lease
#   peer=ADDRESS              client: the guest to ping and to send data to
#   host=ADDRESS              client: the host to ping
#   outside=ADDRESS           an address outside the bridge, to ping through host
#   mib=N                     client: the MiB to send
#   stay=1                    don't power off at the end
# shellcheck disable=SC2154  # the kernel sets these variables
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    insmod "$module"
done
ip link set lo up
for tries in 1 2 3 4 5 6 7 8 9 10; do
    [ -e /sys/class/net/eth0 ] && break
    sleep 0.3
done
ip link set eth0 up
driver=$(readlink -f /sys/class/net/eth0/device/driver)
echo "netguest: eth0 mac $(cat /sys/class/net/eth0/address) driver ${driver##*/} tries $tries"
if ! udhcpc -i eth0 -q -n -t 5 -T 2 -s /lease.sh 2>/dev/null; then
    echo "netguest: no lease"
fi

# Several tries, because the first packets may be late on a busy host.
pings() {
    for try in 1 2 3 4 5; do
        if ping -c 2 -W 2 "$2" >/dev/null 2>&1; then
            echo "netguest: ping $1 ok at try $try"
            return
        fi
    done
    echo "netguest: ping $1 failed"
}

if [ -n "${outside-}" ]; then
    # Without NAT, the DHCP server offers no router. Add a route nevertheless, to test that the host doesn't forward.
    ip route add default via "$host" 2>/dev/null
    pings outside "$outside"
fi
case ${role-idle} in
    server)
        echo "netguest: listening"
        nc -l -p 5001 >/tmp/received
        echo "netguest: received $(md5sum </tmp/received)"
        ;;
    client)
        pings peer "$peer"
        pings host "$host"
        dd if=/dev/urandom of=/tmp/data bs=1M count="$mib" 2>/dev/null
        echo "netguest: sending $(md5sum </tmp/data)"
        before=$(cut -d ' ' -f 1 /proc/uptime)
        nc "$peer" 5001 </tmp/data
        echo "netguest: sent $mib MiB from $before to $(cut -d ' ' -f 1 /proc/uptime)"
        ;;
esac
echo "netguest: done"
if [ "${stay-}" != 1 ]; then
    poweroff -f
fi
while :; do
    sleep 60
done
