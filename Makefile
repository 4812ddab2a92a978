# make demo [ONCE=1] · test [ARGS="-k name"] · coverage · lint · types · bench · soak · docs · build     PYTHON=python3.13 names the interpreter
COMMANDS = demo test coverage lint types bench soak docs build
.PHONY: $(COMMANDS)
$(COMMANDS):
	@python3 bootstrap.py $@
