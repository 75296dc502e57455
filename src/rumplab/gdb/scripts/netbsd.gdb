# Commands for NetBSD kernels, in GDB's own language: no Python, nothing newer than GDB 7.3. They only read kernel
# memory, so they work with every stub. They need a stopped kernel and its symbols, netbsd.gdb.
#
# GDB's convenience variables can't hold arrays, so nb-chars reads eight characters at a time, in aligned words. An
# aligned word never crosses a page boundary.

define nb-chars
  set $nb_at = (unsigned long) ($arg0)
  set $nb_end = $nb_at + ($arg1)
  while $nb_at < $nb_end
    set $nb_word = *(unsigned long long *) ($nb_at & ~7) >> 8 * ($nb_at & 7)
    set $nb_next = ($nb_at | 7) + 1
    while $nb_at < $nb_next && $nb_at < $nb_end
      if ($nb_word & 255) != 0
        printf "%c", (int) ($nb_word & 255)
      else
        if $arg2
          set $nb_end = 0
        end
      end
      set $nb_word = $nb_word >> 8
      set $nb_at = $nb_at + 1
    end
  end
end
document nb-chars
Print characters of kernel memory: nb-chars ADDRESS COUNT STOP
If STOP is 0, NULs are skipped; else the first NUL ends the text.
end

define nb-text
  nb-chars &($arg0) sizeof($arg0) 1
end
document nb-text
Print a character array in kernel memory up to its first NUL: nb-text proc0.p_comm
end

define nb-dmesg
  if msgbufp == 0
    echo nb-dmesg: the kernel has no message buffer yet\n
  else
    if msgbufp->msg_magic != 0x063061
      echo nb-dmesg: msgbufp does not point to a message buffer; do the symbols fit this kernel?\n
    else
      # A ring buffer: the oldest character is at the position that the kernel overwrites next.
      set $nb_bufx = msgbufp->msg_bufx
      nb-chars (msgbufp->msg_bufc+$nb_bufx) (msgbufp->msg_bufs-$nb_bufx) 0
      nb-chars msgbufp->msg_bufc $nb_bufx 0
    end
  end
end
document nb-dmesg
Print the kernel's message buffer, as dmesg(8) does.
end

define nb-ps
  set $nb_proc = allproc.lh_first
  printf "  PID  PPID LWPS STATE  COMMAND\n"
  while $nb_proc != 0
    set $nb_parent = 0
    if $nb_proc->p_pptr != 0
      set $nb_parent = $nb_proc->p_pptr->p_pid
    end
    printf "%5d %5d %4d ", $nb_proc->p_pid, $nb_parent, $nb_proc->p_nlwps
    set $nb_stat = $nb_proc->p_stat
    if $nb_stat == 1
      printf "idle   "
    else
      if $nb_stat == 2
        printf "active "
      else
        if $nb_stat == 3
          printf "dying  "
        else
          if $nb_stat == 4
            printf "stop   "
          else
            if $nb_stat == 5
              printf "zombie "
            else
              printf "%6d ", $nb_stat
            end
          end
        end
      end
    end
    nb-text $nb_proc->p_comm
    echo \n
    set $nb_proc = $nb_proc->p_list.le_next
  end
end
document nb-ps
List the kernel's processes: number, parent, LWPs, state, command.
end

define nb-pci
  set $nb_dev = alldevs.tqh_first
  while $nb_dev != 0
    set $nb_bus = $nb_dev->dv_parent
    if $nb_bus != 0
      if $nb_bus->dv_cfdriver == &pci_cd && $nb_dev->dv_locators != 0
        printf "%03d:", ((struct pci_softc *) $nb_bus->dv_private)->sc_bus
        printf "%02d:%d: ", $nb_dev->dv_locators[0], $nb_dev->dv_locators[1]
        nb-text $nb_dev->dv_xname
        printf " at "
        nb-text $nb_bus->dv_xname
        echo \n
      end
    end
    set $nb_dev = $nb_dev->dv_list.tqe_next
  end
end
document nb-pci
List the PCI functions that a driver has claimed: bus:device:function: driver at bus.
end
