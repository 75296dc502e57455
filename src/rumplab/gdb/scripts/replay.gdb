# GDB commands for `rumplab debug NAME --replay`.

define rr-where
  monitor rr where
end
document rr-where
Print the number of executed instructions, and their share of the recording.
end

define rr-mark
  monitor rr mark $arg0
end
document rr-mark
Remember this position as NAME: rr-mark NAME.
end

define rr-marks
  monitor rr marks
end
document rr-marks
List the positions that rr-mark has remembered.
end

define rr-goto
  monitor rr goto $arg0
  stepi
end
document rr-goto
Go to a position, forwards or back: rr-goto NAME|ICOUNT|begin|end.
end
