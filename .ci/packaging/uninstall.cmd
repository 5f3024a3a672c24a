@echo off
rem Removes the service and the program. Run it as administrator. Configuration and invoices stay.
setlocal
"%~dp0ksefmirror.exe" service uninstall
if errorlevel 1 exit /b 1
rd /s /q "%ProgramFiles%\ksefmirror"
echo The configuration is left in %ProgramData%\ksefmirror, the invoices in the folder that it names.
