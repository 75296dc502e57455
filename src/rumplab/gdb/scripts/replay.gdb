# Commands for a session with a recording: rumplab debug NAME --replay.

define rr-where
  monitor rr where
end
document rr-where
Where in the recording this is: the instructions that have been executed, and their share.
end

define rr-mark
  monitor rr mark $arg0
end
document rr-mark
Remember this place as NAME: rr-mark NAME.
end

define rr-marks
  monitor rr marks
end
document rr-marks
List the places that rr-mark remembers.
end

define rr-goto
  monitor rr goto $arg0
  stepi
end
document rr-goto
Go to a place, forwards or back: rr-goto NAME|ICOUNT|begin|end.
end
