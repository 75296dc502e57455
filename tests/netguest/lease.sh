#!/bin/sh
# The script of udhcpc: it configures the lease, and prints it on the console.
# shellcheck disable=SC2154  # udhcpc sets the variables.
case $1 in
    bound)
        ip addr add "$ip/$mask" dev "$interface"
        if [ -n "${router-}" ]; then
            ip route add default via "${router%% *}"
        fi
        echo "netguest: lease $ip/$mask router ${router:-none}"
        ;;
esac
